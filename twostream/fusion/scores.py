"""Scores of a stream: its logits for the clips of one split, the only input of fusion and evaluation."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason

SUBSETS = ("train", "val", "test")  # of scored clips; on train, scores are out of fold


@dataclass(frozen=True, eq=False)
class Scores:
    """The logits of one stream, or of a fusion of streams, for N clips and C classes.

    Attributes:
        clip_id: [N] str, each clip once.
        label: [N] int64, the true class as an index into `classes`.
        classes: [C] str, each class once.
        subset: [N] str, `val` or `test`, or `train` for clips of a stream that gives them out-of-fold logits.
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
        n, c = np.size(self.clip_id), np.size(self.classes)
        for name, kinds, dtype, shape in (
            ("clip_id", "UOT", np.str_, (n,)),
            ("label", "iu", np.int64, (n,)),
            ("classes", "UOT", np.str_, (c,)),
            ("subset", "UOT", np.str_, (n,)),
            ("logits", "fiu", np.float32, (n, c)),
        ):
            array = np.asarray(getattr(self, name))
            if array.size and array.dtype.kind not in kinds:  # an empty list has no type of its own
                raise ValueError(f"{name} has type {array.dtype}, expected {dtype.__name__.strip('_')}")
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            object.__setattr__(self, name, array.astype(dtype))
        for name in ("clip_id", "classes"):
            values, counts = np.unique(getattr(self, name), return_counts=True)
            if (counts > 1).any():
                raise ValueError(f"{name} holds {str(values[counts > 1][0])!r} twice")
        for problem, wrong in (
            ("label is not the index of a class", (self.label < 0) | (self.label >= c)),
            (f"subset is not one of {', '.join(SUBSETS)}", ~np.isin(self.subset, SUBSETS)),
            ("logits are not finite", ~np.isfinite(self.logits).all(axis=1)),
        ):
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


def align(streams: dict[str, Scores]) -> dict[str, Scores]:
    """Return the streams with their clips in the order of the first stream, so that row i is the same clip in all.

    Training clips stay only if all streams have logits for them.

    Raises:
        UserError: the streams differ in classes, in clips, or in a clip's label or subset; the message names the
            streams and the first clip. A clip without scores of some stream is never left out.
    """
    if any("train" not in scores.subset for scores in streams.values()):
        streams = {name: scores.take(scores.subset != "train") for name, scores in streams.items()}
    (first_name, first), *others = streams.items()
    aligned = {first_name: first}
    for name, scores in others:
        both = f"streams {first_name!r} and {name!r}"
        if not np.array_equal(first.classes, scores.classes):
            only = [f"only one has {str(label)!r}" for label in np.setxor1d(first.classes, scores.classes)]
            what = only[0] if only else "the same classes in another order"
            raise UserError(f"{both} were scored on different classes ({what}); score both again on the same clips")
        differ = np.setxor1d(first.clip_id, scores.clip_id)
        if differ.size:
            lacks = name if differ[0] in first.clip_id else first_name
            raise UserError(f"{both} differ in clips: {lacks!r} has no scores of {str(differ[0])!r}; score it again")
        aligned[name] = scores.take(pd.Index(scores.clip_id).get_indexer(first.clip_id))
        for what in ("label", "subset"):
            differs = getattr(aligned[name], what) != getattr(first, what)
            if differs.any():
                raise UserError(
                    f"{both}: clip {str(first.clip_id[differs][0])!r} has another {what} in each; score both again on "
                    "the same split"
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
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("compressed, so that their size is not known")
            members = {name: archive.read(f"{name}.npy") for name in Scores.__dataclass_fields__}
        read_array = np.lib.format.read_array
        return Scores(**{name: read_array(io.BytesIO(data), allow_pickle=False) for name, data in members.items()})
    except Exception as error:  # a damaged byte can lead to any error, up to MemoryError for a shape of 10^12
        raise UserError(f"{path}: not usable scores ({reason(error)}); run `dvc repro` to make it again") from None
