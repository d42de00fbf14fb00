"""The parameters: one typed schema for every section of `params.yaml`, checked before any work starts."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from twostream.core.files import expand_home
from twostream.errors import UserError
from twostream.networks.names import FIXED, check_model_name, hf_folder
from twostream.profiles import complete, differences, read_yaml

RESERVED = (  # keys of metrics and columns of tables
    *("fusion", "fusion_gain", "paired", "class_prior", "class", "clips", "right", "effect", "split", "run"),
    *("all", "none", "clip_id", "actual", "predicted", "confidence", "events"),
)
_FILE_ENDINGS = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
FilePath = Annotated[str, AfterValidator(expand_home)]


class Section(BaseModel):
    """A strict section: unknown keys are rejected, and every key must have a value, so that DVC tracks all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("each entry can be listed once")
    return values


def _check_file(value: str, key: str, folder: str) -> None:
    """Raise ValueError if `value` is a path outside the folder on whose content the stages depend."""
    path = Path(value)
    if (len(path.parts) > 1 or path.suffix in _FILE_ENDINGS) and not os.path.normpath(path).startswith(f"{folder}/"):
        raise ValueError(
            f"{key}: {value!r} is not in {folder}/, where DVC sees that a file has changed; link or copy it there "
            f"(ln -s {path.absolute()} {folder}/) and write {folder}/{path.name}"
        )


class Demo(Section):
    """The generated data set: `groups` pairs of an actor and a place, each with `takes` clips per class."""

    groups: int = Field(ge=3, le=200)
    takes: int = Field(ge=1, le=50)
    frames: int = Field(ge=4, le=1000)
    width: int = Field(ge=32, le=640)
    height: int = Field(ge=32, le=480)
    seed: int = Field(ge=0, le=2**31 - 1)

    @field_validator("width", "height")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even: the video codec stores colour at half resolution")
        return value


class Dataset(Section):
    name: Literal["demo", "folder", "hmdb51", "ucf101"]
    source: FilePath = Field(min_length=1)
    splits: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1), AfterValidator(_distinct)]
    val_fraction: float = Field(ge=0.01, le=0.5)
    test_fraction: float = Field(ge=0.05, le=0.5)
    table: FilePath
    background: str
    group_pattern: str
    allow_missing: bool
    max_unreadable: int = Field(ge=0)
    demo: Demo

    @field_validator("group_pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _official_splits(self) -> Dataset:
        if os.path.isabs(self.table):
            _check_file(self.table, "table", "data/tables")
        if self.name in ("demo", "hmdb51", "ucf101") and max(self.splits) > 3:
            raise ValueError(f"splits: {self.name} has the official splits 1, 2 and 3")
        return self


class Rgb(Section):
    short_side: int = Field(ge=16, le=2160)
    jpeg_quality: int = Field(ge=1, le=100)


class Farneback(Section):
    pyr_scale: float = Field(gt=0, lt=1)
    levels: int = Field(ge=1, le=20)
    winsize: int = Field(ge=2, le=101)
    iterations: int = Field(ge=1, le=100)
    poly_n: Literal[5, 7]
    poly_sigma: float = Field(gt=0, le=10)


class Tvl1(Section):
    """A preset, and values that replace the preset's (None: keep it). `warps` and `iterations` may differ by level."""

    preset: Literal["fast", "balanced", "accurate"]
    lambda_: float | None = Field(gt=0, le=100, alias="lambda")
    theta: float | None = Field(gt=0, le=100)
    tau: float | None = Field(gt=0, le=1)
    epsilon: float | None = Field(ge=0, le=10)
    edge: float | None = Field(ge=0, le=1000)
    exposure: bool | None
    scales: int | None = Field(ge=1, le=20)
    scale_step: float | None = Field(ge=0.3, le=0.95)
    warps: int | list[int] | None
    iterations: int | list[int] | None
    median: Literal[1, 3, 5] | None
    presmooth: float | None = Field(ge=0, le=5)

    @field_validator("warps", "iterations", mode="before")
    @classmethod
    def _counts(cls, value: Any, info: ValidationInfo) -> Any:
        most = 50 if info.field_name == "warps" else 500
        counts = value if isinstance(value, list) else [value]
        if value is not None and not (counts and all(type(n) is int and 1 <= n <= most for n in counts)):
            raise ValueError(f"must be null, an integer from 1 to {most}, or a list of such, the finest level's first")
        return value


class Dis(Section):
    preset: Literal["ultrafast", "fast", "medium"]


class Raft(Section):
    model: Literal["small", "large"]
    weights: FilePath = Field(min_length=1)
    updates: int = Field(ge=1, le=100)


class Flow(Section):
    method: Literal["tvl1", "farneback", "dis", "raft"]
    device: Literal["auto", "cpu", "cuda"]
    short_side: int = Field(ge=16, le=2160)
    frames: int = Field(ge=0, le=10000)
    bound: float = Field(gt=0, le=1000)
    jpeg_quality: int = Field(ge=1, le=100)
    farneback: Farneback
    tvl1: Tvl1
    dis: Dis
    raft: Raft

    @field_validator("frames")
    @classmethod
    def _a_pair(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one frame has no flow: use 0 for every frame of the clip, or 2 and more")
        return value


class Sampling(Section):
    mode: Literal["segments", "uniform"]
    segments: int = Field(ge=1, le=64)
    frames: int = Field(ge=1, le=256)
    stride: int = Field(ge=1, le=64)

    @model_validator(mode="after")
    def _uniform_has_no_stride(self) -> Sampling:
        if self.mode == "uniform" and self.stride != 1:
            raise ValueError("mode uniform spreads its frames over the whole clip: stride must be 1")
        return self


class Augment(Section):
    scales: list[Annotated[float, Field(gt=0.1, le=1)]] = Field(min_length=1)
    flip: bool
    jitter: float = Field(ge=0, lt=1)


class Stream(Section):
    model: str
    weights: FilePath = Field(min_length=1)
    tune: Literal["all", "last", "head"]
    input: Literal["frames", "difference"]
    size: int = Field(ge=16, le=1024)
    dropout: float = Field(ge=0, lt=1)
    sampling: Sampling
    demean: bool
    augment: Augment
    mixup: float = Field(ge=0, le=10)
    balance: Literal["none", "sampler", "loss"]
    freeze_bn: Literal["none", "partial", "all"]
    epochs: int = Field(ge=1, le=10000)
    patience: int = Field(ge=1, le=10000)
    batch_size: int = Field(ge=1, le=4096)
    optimizer: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0, le=10)
    lr_new: float = Field(gt=0, le=1000)
    weight_decay: float = Field(ge=0, le=1)
    schedule: Literal["constant", "cosine"]
    warmup_epochs: int = Field(ge=0, le=1000)
    label_smoothing: float = Field(ge=0, lt=1)
    clip_grad: float = Field(ge=0, le=1000)

    @model_validator(mode="after")
    def _statistics_to_keep(self) -> Stream:
        if self.freeze_bn != "none" and self.weights == "none":
            raise ValueError("freeze_bn: keeps the statistics of loaded weights, and weights is none; set it to none")
        return self

    @model_validator(mode="after")
    def _something_to_freeze(self) -> Stream:
        if self.tune != "all" and self.weights == "none" and self.model not in FIXED:
            raise ValueError(
                f"tune: {self.tune} freezes loaded weights, and weights is none; set it to all, or name weights"
            )
        if self.tune == "head" and self.balance == "sampler":
            raise ValueError("balance: a head sees all clips at once and draws none; set it to loss")
        return self


class Train(Section):
    rgb: list[Name] = Field(min_length=1)
    flow: list[Name] = Field(min_length=1)
    precision: Literal["auto", "32", "bf16", "16"]
    compile: bool


class Score(Section):
    segments: int = Field(ge=1, le=100)
    crops: Literal[1, 3, 5]
    flip: bool


class Fusion(Section):
    method: Literal["average", "weighted", "logreg", "svm"]
    streams: Annotated[list[Name], Field(min_length=2, max_length=6), AfterValidator(_distinct)]
    step: float = Field(gt=0, le=0.5)
    c: float = Field(gt=0, le=1e6)


class Evaluate(Section):
    bootstrap: int = Field(ge=100, le=100_000)  # all draws are in memory at once
    confidence: float = Field(gt=0.5, lt=1)


class Report(Section):
    examples: int = Field(ge=1, le=100)


class Runtime(Section):
    workers: int = Field(ge=0, le=1024)
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: int = Field(ge=0, le=1024)


class Params(Section):
    """Everything in `params.yaml`. Build one with :func:`load_params`."""

    seed: int = Field(ge=0, le=2**31 - 1)
    dataset: Dataset
    rgb: Rgb
    flow: Flow
    train: Train
    streams: dict[Name, Stream]
    score: Score
    fusion: Fusion
    evaluate: Evaluate
    report: Report
    runtime: Runtime

    @model_validator(mode="after")
    def _names_agree(self) -> Params:
        trained = [*self.train.rgb, *self.train.flow]
        if self.flow.method == "raft":
            _check_file(self.flow.raft.weights, "flow.raft.weights", "data/weights")
        for name in trained:
            if name in RESERVED:
                raise ValueError(f"train: '{name}' cannot name a stream, it is a key of the metrics; rename the stream")
            if trained.count(name) > 1:
                raise ValueError(f"train: stream '{name}' is listed twice; a stream has one modality")
            if name not in self.streams:
                raise ValueError(f"train: '{name}' is not among streams ({', '.join(self.streams)})")
        for name in self.fusion.streams:
            if name not in trained:
                raise ValueError(f"fusion.streams: '{name}' is not trained; choose from {', '.join(trained)}")
        for name in trained:
            stream = self.streams[name]
            _check_file(stream.weights, f"streams.{name}.weights", "data/weights")
            try:
                check_model_name(stream.model, self.modality(name))
            except ValueError as error:
                raise ValueError(f"streams.{name}.model: {error}") from None
            if folder := hf_folder(stream.model):
                _check_file(os.fspath(folder), f"streams.{name}.model", "data/weights")
            if stream.demean and self.modality(name) == "rgb":
                raise ValueError(f"streams.{name}.demean: concerns flow, and {name} reads rgb; set it to false")
            if stream.input == "difference" and self.modality(name) == "flow":
                raise ValueError(f"streams.{name}.input: difference is of RGB frames, and {name} reads flow")
        return self

    def modality(self, stream: str) -> Literal["rgb", "flow"]:
        """Return the modality that a trained stream reads."""
        return "flow" if stream in self.train.flow else "rgb"


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file.

    A key that the file lacks, because it was written before the key existed, has the value of profiles/base.yaml. One
    line on stderr names these keys.

    Raises:
        UserError: the file cannot be read, is not YAML, or holds an unknown key, a wrong type or an impossible value.
            The message is one line that names the file, the key, the value and what is allowed.
    """
    values = read_yaml(path)
    complete_values = complete(values)
    params = parse_params(complete_values, str(path))
    added = [f"{key}: {json.dumps(value)}" for key, old, value in differences(values, complete_values) if old is None]
    if added:
        print(
            f"WARNING: {path} lacks {', '.join(added)}: the defaults of profiles/base.yaml, used here. Add them to the "
            "file: DVC does not track what is missing, and stops where dvc.yaml names it",
            file=sys.stderr,
        )
    written = complete_values["dataset"]["source"]
    if written != params.dataset.source:
        print(
            f"WARNING: {path}: dataset.source: {written} is {params.dataset.source} here, but DVC does not expand it "
            "and stops at what it does not find: write the full path",
            file=sys.stderr,
        )
    return params


def parse_params(data: dict[str, Any], where: str = "parameters") -> Params:
    """Check a mapping of all parameters; `where` stands in the error message. Raises as :func:`load_params`."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        first, *others = error.errors()
        more = f" (and {len(others)} more)" if others else ""
        raise UserError(f"{where}: {_line(first)}{more}") from None


def _line(problem: Any) -> str:
    """Return one line on a problem that pydantic found: key, value and what is allowed."""
    loc = [part for part in problem["loc"] if part != "[key]"]
    key = ".".join(str(part) for part in loc)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1])
        close = difflib.get_close_matches(str(loc[-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"allowed here: {', '.join(known)}"
        return f"{key} is not a parameter; {hint}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "value_error" and len(loc) < 2:
        return message  # a rule over several keys names them itself
    return f"{key}: {problem['input']!r} - {message.replace('Input should be', 'must be')}"


def _known_keys(loc: list[Any]) -> list[str]:
    """Return the keys of the section at `loc`, such as ("streams", "spatial", "augment")."""
    section: Any = Params
    for part in loc:
        found = {_key(name, field): field.annotation for name, field in section.model_fields.items()}.get(part)
        # What has no fields is `streams` or, below it, the name of a stream.
        section = found if hasattr(found, "model_fields") else Stream
    return [_key(name, field) for name, field in section.model_fields.items()]


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name
