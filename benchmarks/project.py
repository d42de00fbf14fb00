"""Run the whole pipeline many times in a project of its own, and compare the outcomes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from twostream.datasets.tables import read_clips
from twostream.errors import UserError
from twostream.fusion.evaluation import draw_groups
from twostream.fusion.scores import read_scores

ROOT = Path(__file__).parents[1]


def copy_project(work: Path) -> None:
    """Copy the files that git tracks, or would track, into a repository of its own; results computed there stay."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("tests/", "metrics/", "dvc.lock")) and (ROOT / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, work / name)
    if not (work / ".git").exists():
        identity = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")
        for step in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "benchmark"]):
            subprocess.run(["git", *step], cwd=work, check=True)  # DVC needs a commit


def repro(work: Path, values: dict, target: str, threads: int) -> None:
    """Run the pipeline up to a stage with these parameters, on so many threads; DVC's output goes to `dvc.log`.

    Raises:
        UserError: a stage failed.
    """
    (work / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": str(threads)}
    log = work / "dvc.log"
    with log.open("a") as out:
        done = subprocess.run(["dvc", "repro", target], cwd=work, env=environment, stdout=out, stderr=out)
    if done.returncode:
        raise UserError(f"dvc repro failed in {work}; the last lines of {log} say why")


def right_clips(work: Path, file: str) -> pd.Series:
    """Return 1 for test clips (index: clip id) that the scores in a file classify correctly, else 0."""
    scores = read_scores(work / file)
    tested = np.asarray(scores.subset) == "test"
    right = np.asarray(scores.logits).argmax(axis=1) == np.asarray(scores.label)
    return pd.Series(right[tested].astype(float), index=np.asarray(scores.clip_id)[tested])


def groups_of(work: Path) -> pd.Series:
    """Return the group of every clip id."""
    return read_clips(work / "data" / "clips.csv").set_index("clip_id")["group"]


def compare(right: dict[tuple[str, int], pd.Series], groups: pd.Series) -> pd.DataFrame:
    """Return top-1 in per cent by method, and differences to the first method, with intervals over groups.

    Args:
        right: by method and seed, 1 for clips (index: clip id) classified correctly, else 0.
        groups: the group of every clip id; the bootstrap draws whole groups.
    """
    methods = list(dict.fromkeys(method for method, _ in right))
    accuracy = pd.DataFrame(
        {m: pd.concat([s for (k, _), s in right.items() if k == m], axis=1).mean(1) for m in methods}
    )
    by_group = accuracy.groupby(groups.reindex(accuracy.index)).agg(["sum", "count"])
    sums = np.stack([by_group[m, "sum"] for m in methods], axis=1)
    counts = by_group[methods[0], "count"].to_numpy()
    drawn = draw_groups(len(counts), 10_000, seed=0)
    means = 100 * (drawn @ sums) / (drawn @ counts)[:, None]
    rows = {}
    for k, method in enumerate(methods):
        seeds = [100 * s.mean() for (m, _), s in right.items() if m == method]
        low, high = np.percentile(means[:, k], [2.5, 97.5])
        less, more = np.percentile(means[:, k] - means[:, 0], [2.5, 97.5])
        rows[method] = {"top-1": np.mean(seeds), "low": low, "high": high}
        rows[method] |= {"difference": 100 * (accuracy[method] - accuracy[methods[0]]).mean()}
        rows[method] |= {"difference low": less, "difference high": more}
        rows[method] |= {"seeds": " ".join(f"{s:.1f}" for s in seeds)}
    return pd.DataFrame.from_dict(rows, orient="index").round(1)
