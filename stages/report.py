"""Stage: one page that shows the data, the streams and what each of them contributes."""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from stages.common import run
from twostream.clipstore import ClipReader
from twostream.core.files import sha256_of
from twostream.datasets.tables import classes_of, read_clips, read_split
from twostream.flow.encoding import decode_flow
from twostream.params import Params
from twostream.report.page import Example, write_report
from twostream.report.strips import strips_image

METRICS = Path("metrics")
STRIP_FRAMES, PICTURED = 6, 3
SOFTWARE = (
    *("twostream", "av", "dvc", "lightning", "numba", "numpy", "opencv-contrib-python-headless", "scikit-learn"),
    *("timm", "torch", "torchvision"),
)


def report(params: Params) -> None:
    """Write metrics/report.html and a picture of some clips with their flow, metrics/examples.jpg."""
    clips, splits = read_clips("data/clips.csv"), params.dataset.splits
    listed = ("data/clips.csv", *(f"data/splits/{n}.csv" for n in splits))
    mistakes, curves = _table("mistakes"), _table("curves")
    examples = [_strip(clip_id, params) for clip_id in _chosen(clips, splits[0], params.report.examples)]
    pictured = [_strip(clip_id, params) for clip_id in _chosen(clips, splits[0], PICTURED)]
    cv2.imwrite(str(METRICS / "examples.jpg"), strips_image(pictured)[..., ::-1])
    write_report(
        METRICS / "report.html",
        params=params,
        clips=clips,
        splits={n: read_split(f"data/splits/{n}.csv") for n in splits},
        explore_dir=METRICS / "explore",
        metrics=json.loads((METRICS / "metrics.json").read_text()),
        per_class=_table("per_class", numbers_may_lack=True),
        confusion=_table("confusion"),
        sweep={n: _table(f"fusion/split{n}") for n in splits},
        curves={name: curve.drop(columns="run") for name, curve in curves.groupby("run", sort=False)},
        contribution=_table("contribution"),
        mistakes=mistakes,
        examples=examples,
        mistake_examples=[_strip(clip_id, params) for clip_id in dict.fromkeys(mistakes["clip_id"])],
        versions={"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in SOFTWARE},
        digests={"data/videos, readable clips": _videos_digest(clips)} | {path: sha256_of(path) for path in listed},
    )


def _videos_digest(clips: pd.DataFrame) -> str:
    """One SHA-256 over the names of all readable clips and the SHA-256 of their videos, which extraction wrote down."""
    digest = hashlib.sha256()
    for clip_id in sorted(clips.loc[clips["status"] == "ok", "clip_id"]):
        with ClipReader(f"data/rgb/{clip_id}.zip") as clip:
            digest.update(json.dumps([clip_id, clip.meta["source"]]).encode())
    return digest.hexdigest()


def _table(name: str, numbers_may_lack: bool = False) -> pd.DataFrame:
    """A metrics table; a class or clip may be called "None", so only numbers are ever taken as missing."""
    text = {column: str for column in ("run", "class", "clip_id", "actual", "predicted", "right", "effect", "stream")}
    table = pd.read_csv(METRICS / f"{name}.csv", dtype=text, keep_default_na=False, na_values=[])
    if numbers_may_lack:
        numbers = [column for column in table if column not in text]
        table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    return table


def _chosen(clips: pd.DataFrame, split: int, count: int) -> list[str]:
    """Test clips of as many classes as there are examples, spread over the class list."""
    subset = read_split(f"data/splits/{split}.csv")
    tested = clips[clips["clip_id"].isin(subset.index[subset == "test"])]
    names = [name for name in classes_of(clips) if (tested["class"] == name).any()]
    picked = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    by_class = {name: table["clip_id"] for name, table in tested.groupby("class")}
    return [by_class[names[i]].iloc[i * len(by_class[names[i]]) // len(names)] for i in picked]


def _strip(clip_id: str, params: Params) -> Example:
    with ClipReader(f"data/rgb/{clip_id}.zip") as rgb, ClipReader(f"data/flow/{clip_id}.zip") as flow:
        at = np.linspace(0, len(flow) - 1, min(STRIP_FRAMES, len(flow))).round().astype(int)
        # Flow may have been taken between fewer frames than there are.
        frames = (at * ((len(rgb) - 1) / len(flow))).round().astype(int)
        return clip_id, rgb.read(frames), decode_flow(flow.read(at), params.flow.bound)


if __name__ == "__main__":
    run(report)
