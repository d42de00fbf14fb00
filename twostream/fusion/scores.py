"""A stream's scores: the logits of the clips of one split, the only thing that fusion and evaluation read."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twostream.errors import UserError

SUBSETS = ("val", "test")

_EARLIEST_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Scores:
    """What one stream (or a fusion of streams) says about N clips and C classes.

    Attributes:
        clip_id: [N] str, each clip once.
        label: [N] int64, the true class as an index into `classes`.
        classes: [C] str, each class once.
        subset: [N] str, `val` or `test`.
        logits: [N, C] float32, finite. The largest is the prediction; of several equal ones the first.

    Raises:
        ValueError: the arrays do not fit together; one line that names the array and, where it can, the clip.
    """

    clip_id: np.ndarray
    label: np.ndarray
    classes: np.ndarray
    subset: np.ndarray
    logits: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (("clip_id", np.str_), ("classes", np.str_), ("subset", np.str_)):
            array = np.asarray(getattr(self, name))
            if array.size == 0:
                array = array.astype(np.str_)  # an empty list has no type of its own
            if array.dtype.kind not in "UOT":
                raise ValueError(f"{name} must be text, not {array.dtype}")
            object.__setattr__(self, name, array.astype(dtype))
        label, logits = np.asarray(self.label), np.asarray(self.logits)
        if label.size and label.dtype.kind not in "iu":
            raise ValueError(f"label must be integers, not {label.dtype}")
        if logits.dtype.kind not in "fiu":
            raise ValueError(f"logits must be numbers, not {logits.dtype}")
        object.__setattr__(self, "label", label.astype(np.int64))
        object.__setattr__(self, "logits", logits.astype(np.float32))
        self._check()

    def _check(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("clip_id", "label", "classes", "subset", "logits")}
        clips, classes = self.clip_id.size, self.classes.size
        right = {
            "clip_id": (clips,),
            "label": (clips,),
            "classes": (classes,),
            "subset": (clips,),
            "logits": (clips, classes),
        }
        for name, shape in shapes.items():
            if shape != right[name]:
                raise ValueError(f"{name} has shape {shape}, expected {right[name]}")
        if classes == 0:
            raise ValueError("classes is empty")
        for name in ("clip_id", "classes"):
            values, counts = np.unique(getattr(self, name), return_counts=True)
            if (counts > 1).any():
                raise ValueError(f"{name} holds {str(values[counts > 1][0])!r} twice")
        problems = (
            ("label is not the index of a class", (self.label < 0) | (self.label >= classes)),
            (f"subset is not one of {', '.join(SUBSETS)}", ~np.isin(self.subset, SUBSETS)),
            ("logits are not finite", ~np.isfinite(self.logits).all(axis=1)),
        )
        for problem, wrong in problems:
            if wrong.any():
                raise ValueError(f"{problem} for clip {str(self.clip_id[wrong][0])!r}")

    def __len__(self) -> int:
        return len(self.clip_id)

    def take(self, rows: np.ndarray) -> Scores:
        """The clips at `rows` (indices or a mask), in that order."""
        return replace(
            self,
            clip_id=self.clip_id[rows],
            label=self.label[rows],
            subset=self.subset[rows],
            logits=self.logits[rows],
        )

    def of(self, subset: str) -> Scores:
        """The clips of one subset, in their order."""
        return self.take(self.subset == subset)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis, float64, without overflow."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def ranks(scores: Scores) -> np.ndarray:
    """[N] int: how many classes stand before the true one. 0 is a top-1 hit, below 5 a top-5 hit.

    Of equal logits the lower class index stands first, so that rank 0 is exactly `logits.argmax(axis=1) == label`.
    """
    true = scores.logits[np.arange(len(scores)), scores.label][:, None]
    earlier = np.arange(len(scores.classes)) < scores.label[:, None]
    return ((scores.logits > true) | (earlier & (scores.logits == true))).sum(axis=1)


def align(streams: dict[str, Scores]) -> dict[str, Scores]:
    """The same streams with their clips in the order of the first stream, so that row i is one clip in all of them.

    Raises:
        UserError: the streams differ in classes, in clips, or in a clip's label or subset. The message names the
            streams and the first clip; a clip that some stream could not score is never left out in silence.
    """
    if not streams:
        raise ValueError("no streams to align")
    (first_name, first), *others = streams.items()
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
    """Write an `.npz` that depends on nothing but the scores: no dates, no compression whose bytes vary by library."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        for name in ("clip_id", "label", "classes", "subset", "logits"):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(getattr(scores, name)), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _EARLIEST_DATE)
            entry.create_system = 3  # or else the bytes tell Windows from Unix
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, buffer.getvalue())
    os.replace(beside, path)


def read_scores(path: str | Path) -> Scores:
    """Read what :func:`write_scores` wrote. Nothing in the file is ever executed (no pickle).

    Raises:
        UserError: the file is missing, damaged, or its arrays do not fit together.
    """
    try:
        # Whole members first: ZipFile.read checks the CRC before the array's header is looked at.
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(f"{name}.npy") for name in Scores.__dataclass_fields__}
        arrays = {
            name: np.lib.format.read_array(io.BytesIO(data), allow_pickle=False) for name, data in members.items()
        }
        return Scores(**arrays)
    except KeyError as error:
        problem = error.args[0]
    except OSError as error:
        problem = error.strerror or str(error)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        # RuntimeError: a damaged flag that claims encryption, or (NotImplementedError) an unknown compression
        problem = str(error) or type(error).__name__
    raise UserError(f"{path}: not usable scores ({' '.join(str(problem).split())}); run `dvc repro` to make it again")


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    only = [f"only one has {str(name)!r}" for name in np.setxor1d(ours, theirs)[:1]]
    return only[0] if only else "the same classes in another order"
