"""Scores of a stream: its logits for the clips of one split, the only input of fusion and evaluation."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason

SCORED_SUBSETS = ("val", "test")


@dataclass(frozen=True, eq=False)
class Scores:
    """The logits of one stream, or of a fusion of streams, for N clips and C classes.

    Attributes:
        clip_id: [N] str, each clip once.
        label: [N] int64, the true class as an index into `classes`.
        classes: [C] str, each class once.
        subset: [N] str, `val` or `test`.
        logits: [N, C] float32, finite. The class of the largest is the prediction, the first of equal ones.

    Raises:
        ValueError: the arrays do not fit together; one line that names the array and, where possible, the clip.
    """

    clip_id: np.ndarray
    label: np.ndarray
    classes: np.ndarray
    subset: np.ndarray
    logits: np.ndarray

    def __post_init__(self) -> None:
        for name, kinds, description, dtype in (
            ("clip_id", "UOT", "text", np.str_),
            ("label", "iu", "integers", np.int64),
            ("classes", "UOT", "text", np.str_),
            ("subset", "UOT", "text", np.str_),
            ("logits", "fiu", "numbers", np.float32),
        ):
            array = np.asarray(getattr(self, name))
            if array.size and array.dtype.kind not in kinds:  # an empty list has no type of its own
                raise ValueError(f"{name} must be {description}, not {array.dtype}")
            object.__setattr__(self, name, array.astype(dtype))
        self._check()

    def _check(self) -> None:
        n, c = self.clip_id.size, self.classes.size
        for name, shape in {"clip_id": (n,), "label": (n,), "classes": (c,), "subset": (n,), "logits": (n, c)}.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if c == 0:
            raise ValueError("classes is empty")
        for name in ("clip_id", "classes"):
            values, counts = np.unique(getattr(self, name), return_counts=True)
            if (counts > 1).any():
                raise ValueError(f"{name} holds {str(values[counts > 1][0])!r} twice")
        problems = (
            ("label is not the index of a class", (self.label < 0) | (self.label >= c)),
            (f"subset is not one of {', '.join(SCORED_SUBSETS)}", ~np.isin(self.subset, SCORED_SUBSETS)),
            ("logits are not finite", ~np.isfinite(self.logits).all(axis=1)),
        )
        for problem, wrong in problems:
            if wrong.any():
                raise ValueError(f"{problem} for clip {str(self.clip_id[wrong][0])!r}")

    def __len__(self) -> int:
        return len(self.clip_id)

    def take(self, rows: np.ndarray) -> Scores:
        """Return the clips at `rows` (indices or a mask), in that order."""
        per_clip = ("clip_id", "label", "subset", "logits")
        return replace(self, **{name: getattr(self, name)[rows] for name in per_clip})

    def of(self, subset: str) -> Scores:
        """Return the clips of one subset, in their order."""
        return self.take(self.subset == subset)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities over the last axis, float64, without overflow."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def ranks(scores: Scores) -> np.ndarray:
    """Return the rank of each clip's true class, int [N]: 0 is a top-1 hit, below 5 a top-5 hit.

    Of equal logits the lower class index comes first, so that rank 0 is exactly `logits.argmax(axis=1) == label`.
    """
    true = scores.logits[np.arange(len(scores)), scores.label][:, None]
    earlier = np.arange(len(scores.classes)) < scores.label[:, None]
    return ((scores.logits > true) | (earlier & (scores.logits == true))).sum(axis=1)


def align(streams: dict[str, Scores], names: Sequence[str] | None = None) -> dict[str, Scores]:
    """Return the streams with their clips in the order of the first stream, so that row i is the same clip in all.

    Args:
        streams: name to scores.
        names: the streams to return, in this order; None for all.

    Raises:
        UserError: a stream is missing, or the streams differ in classes, in clips, or in a clip's label or subset. The
            message names the streams and the first clip: a clip without scores of some stream is never left out.
    """
    for name in names or ():
        if name not in streams:
            raise UserError(f"stream {name!r} is fused but has no scores; run `dvc repro`")
    (first_name, first), *others = ((name, streams[name]) for name in names or streams)
    aligned = {first_name: first}
    for name, scores in others:
        if not np.array_equal(scores.classes, first.classes):
            raise UserError(
                f"streams {first_name!r} and {name!r} were scored on different classes "
                f"({_difference(first.classes, scores.classes)}); score both again on the same clips"
            )
        for has, lacks, absent in (
            (first_name, name, first.clip_id[~np.isin(first.clip_id, scores.clip_id)]),
            (name, first_name, scores.clip_id[~np.isin(scores.clip_id, first.clip_id)]),
        ):
            if absent.size:
                more = f" and of {absent.size - 1} more clips" if absent.size > 1 else ""
                raise UserError(
                    f"stream {lacks!r} has no scores of clip {str(absent[0])!r}{more} that {has!r} has scored; "
                    f"score {lacks!r} again"
                )
        order = np.argsort(scores.clip_id)
        aligned[name] = scores.take(order[np.searchsorted(scores.clip_id, first.clip_id, sorter=order)])
        for what in ("label", "subset"):
            differs = getattr(aligned[name], what) != getattr(first, what)
            if differs.any():
                raise UserError(
                    f"clip {str(first.clip_id[differs][0])!r} has another {what} in stream {name!r} than in "
                    f"{first_name!r}; score both again on the same split"
                )
    return aligned


def write_scores(path: str | Path, scores: Scores) -> None:
    """Write an `.npz` whose bytes depend on the scores alone: without dates, and uncompressed."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in Scores.__dataclass_fields__:
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(getattr(scores, name)), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, buffer.getvalue())


def read_scores(path: str | Path) -> Scores:
    """Read a file of :func:`write_scores`. Nothing in the file is executed (no pickle).

    Raises:
        UserError: the file is missing, damaged, or its arrays do not fit together.
    """
    try:
        # Whole members first: ZipFile.read checks the CRC before the array's header is parsed.
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(f"{name}.npy") for name in Scores.__dataclass_fields__}
        read_array = np.lib.format.read_array
        return Scores(**{name: read_array(io.BytesIO(data), allow_pickle=False) for name, data in members.items()})
    except (KeyError, OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        # RuntimeError: a damaged flag that claims encryption, or (NotImplementedError) an unknown compression
        raise UserError(f"{path}: not usable scores ({reason(error)}); run `dvc repro` to make it again") from None


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    only = [f"only one has {str(name)!r}" for name in np.setxor1d(ours, theirs)[:1]]
    return only[0] if only else "the same classes in another order"
