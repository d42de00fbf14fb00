"""A project of twelve tiny clips and two tiny streams, built once, that tests copy, edit and reproduce."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml
from forked import run_module
from helpers import moving_texture, write_video
from miniature import ENVIRONMENT, make_project, run

PEOPLE = ("ann", "ben", "cleo", "dan", "eve", "finn")


class Counts(NamedTuple):
    """What `dvc repro` did: the stages that it started, and what they computed, of RGB and of flow."""

    stages: set[str]
    decoded: int
    extracted: tuple[int, int]
    epochs: tuple[int, int]
    scored: tuple[int, int]


class SmallProject(NamedTuple):
    """The project in `top / "now"`, and its state after it was built in `top / "built"`.

    An edit is made in one place, since DVC sees another absolute path of the clips as another source.
    """

    top: Path

    @property
    def clips_folder(self) -> Path:
        return self.top / "now" / "clips"

    @property
    def folder(self) -> Path:
        return self.top / "now" / "project"

    def restore(self) -> None:
        """Undo all edits and what was run after them."""
        shutil.rmtree(self.top / "now")
        subprocess.run(["cp", "-a", self.top / "built", self.top / "now"], check=True)

    def set(self, changes: dict) -> None:
        """Change values of params.yaml."""
        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(_merged(yaml.safe_load(path.read_text()), changes), sort_keys=False))

    def clips(self, subset: str) -> list[Path]:
        """Return the clips of a subset of the split, in the folder that they come from."""
        split = pd.read_csv(self.folder / "data/splits/1.csv", index_col="clip_id")["subset"]
        return [self.clips_folder / f"{clip_id}.avi" for clip_id in split.index[split == subset]]

    def run(self, *command: str) -> tuple[int, str]:
        """Return exit code and output of `python -m command` in the project."""
        return run_module(self.folder, {**ENVIRONMENT, "DVC_SITE_CACHE_DIR": str(self.top / "site")}, *command)

    def repro(self, *targets: str) -> Counts:
        code, output = self.run("dvc", "repro", *targets)
        assert code == 0, output
        return _counts(output)


def build(top: Path, values: dict) -> SmallProject:
    project = prepare(top, values)
    project.repro("train_rgb")
    shutil.copy(project.folder / "models/cnn3d_v2-1/model.pt", project.folder / "data/weights/start.pt")
    project.set({"streams": {"cnn3d_v2": {"weights": "data/weights/start.pt"}}})
    project.repro()
    for command in (["add", "-A"], ["commit", "-qm", "results"], ["gc", "-q"]):  # gc: a few files to copy, not hundreds
        run(project.folder, "git", *command)
    shutil.copytree(top / "now", top / "built", symlinks=True)
    return project


def prepare(top: Path, values: dict) -> SmallProject:
    """Make the project without running it."""
    for label, step in (("left", -2), ("right", 2)):
        for number, person in enumerate(PEOPLE):
            make_clip(top / "now" / "clips" / label / f"{person}_{label}_1.avi", step, seed=number)
    values = copy.deepcopy(values)
    stream = {**values["streams"]["cnn3d_v2"], "size": 16, "epochs": 1, "batch_size": 6}
    stream["sampling"] = {"mode": "uniform", "segments": 1, "frames": 4, "stride": 1}
    values["streams"] = {
        "cnn3d_v2": stream,
        "flow3d": {**stream, "model": "flow3d", "sampling": {**stream["sampling"], "frames": 2}},
    }
    values = _merged(
        values,
        {
            "dataset": {"name": "folder", "source": str(top / "now" / "clips"), "splits": [1], "val_fraction": 0.3},
            "rgb": {"short_side": 24},
            "flow": {"method": "farneback", "short_side": 24},
            "train": {"rgb": ["cnn3d_v2"], "flow": ["flow3d"]},
            "score": {"segments": 1, "flip": False},
            "fusion": {"method": "average", "streams": ["cnn3d_v2", "flow3d"]},
            "evaluate": {"bootstrap": 100},
            "report": {"examples": 1},
            "runtime": {"workers": 1, "accelerator": "auto"},
        },
    )
    project = SmallProject(top)
    make_project(project.folder, values)
    return project


def make_clip(path: Path, step: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = moving_texture(8, height=32, width=40, step=abs(step), seed=seed)
    write_video(path, frames[::-1] if step < 0 else frames)


def _counts(output: str) -> Counts:
    stages = re.findall(r"^Running stage '(\w+)", output, re.MULTILINE)
    decoded = re.findall(r"^probe: \d+ clips, (\d+) decoded", output, re.MULTILINE)
    trained = re.split(r"^Running stage '", output, flags=re.MULTILINE)

    def sums(stage: str, pattern: str) -> int:
        text = "".join(part for part in trained if part.startswith(stage))
        return sum(int(number) for number in re.findall(pattern, text, re.MULTILINE))

    return Counts(
        stages=set(stages),
        decoded=sum(map(int, decoded)),
        extracted=(sums("extract_rgb", r" (\d+) extracted"), sums("extract_flow", r" (\d+) extracted")),
        epochs=(sums("train_rgb", r"^epoch \d+/(1):"), sums("train_flow", r"^epoch \d+/(1):")),
        scored=(sums("score_rgb", r" (\d+) scored"), sums("score_flow", r" (\d+) scored")),
    )


def _merged(old: dict, new: dict) -> dict:
    """Return a nested mapping with some of its values replaced."""
    return {
        **old,
        **{key: _merged(old[key], value) if isinstance(value, dict) else value for key, value in new.items()},
    }
