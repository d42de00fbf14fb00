"""Inputs of the report: the results of earlier stages, and software versions."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from twostream.fusion.events import read_events
from twostream.report.explore import Exploration, read_exploration

SOFTWARE = (
    *("twostream", "av", "dvc", "lightning", "numba", "numpy", "opencv-contrib-python-headless", "scikit-learn"),
    *("timm", "torch", "torchvision"),
)
_TEXT = ("run", "class", "clip_id", "actual", "predicted", "right", "effect", "stream")  # columns


class Results(NamedTuple):
    """What the stages before the report measured.

    Attributes:
        exploration: of :func:`twostream.report.explore.write_exploration`.
        metrics: of :func:`twostream.fusion.evaluation.evaluate`, with the number of clips.
        per_class, confusion, contribution, mistakes: tables of the functions in `twostream.fusion.evaluation`.
        curves: one row per run and epoch: `run` (`<stream>-<split>`), `epoch`, `train_loss`, `val_loss`, `train_top1`,
            `val_top1`.
        weights: split -> table of :func:`twostream.fusion.weights.weight_curve`.
        events: the true and predicted events of test videos that are annotated in time.
        loaded: run -> the weights that it started from, as :func:`twostream.streams.training.train_stream` writes them.
    """

    exploration: Exploration
    metrics: dict[str, Any]
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    contribution: pd.DataFrame
    mistakes: pd.DataFrame
    curves: pd.DataFrame
    weights: dict[int, pd.DataFrame]
    events: pd.DataFrame
    loaded: dict[str, dict[str, str | None]]


def read_results(folder: Path, splits: list[int]) -> Results:
    """Read the results that the stages wrote into the metrics folder.

    Raises:
        UserError: the exploration is missing or damaged.
    """
    names = ("per_class", "confusion", "contribution", "mistakes", "curves")
    return Results(
        exploration=read_exploration(folder / "explore"),
        metrics=json.loads((folder / "metrics.json").read_text()),
        **{name: _read_table(folder / f"{name}.csv") for name in names},
        weights={n: _read_table(folder / f"fusion/split{n}.csv") for n in splits},
        events=read_events([folder / f"events/split{n}.csv" for n in splits]),
        loaded={file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("train/*/weights.json"))},
    )


def _read_table(path: Path) -> pd.DataFrame:
    # Only an empty cell is a missing value: a class or clip may be called "None".
    return pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False, na_values=[""])


def software_versions() -> dict[str, str]:
    """Return the version of Python and of the libraries that shape results."""
    return {"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in SOFTWARE}
