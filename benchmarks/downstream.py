"""Does the flow's method matter for recognition? The temporal stream trained on each method's flow, several seeds.

    python benchmarks/downstream.py --source DIR [--methods farneback dis-medium tvl1-balanced] [--seeds 0 1 2]

DIR is a folder or an archive of clips as the `folder` data set takes them. Everything runs through DVC in a project of
its own (`--work`), with `profiles/folder.yaml`, so that what was computed once is not computed again and a killed run
goes on. The table gives top-1 on the test clips, the mean over the seeds with its 95 % interval over groups of clips,
and the difference to the first method, with the interval of that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from flow_methods import flow_settings  # noqa: E402

from twostream.clips import read_clips  # noqa: E402
from twostream.errors import UserError  # noqa: E402
from twostream.scores import read_scores  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description="Top-1 of the temporal stream by flow method.")
    parser.add_argument("--source", required=True, type=Path, help="folder or archive of <class>/<clip>")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["farneback", "dis-medium", "tvl1_opencv", "tvl1-balanced"],
        help="as benchmarks/flow.py names them",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of training (0 1 2)")
    parser.add_argument("--short-side", type=int, default=64, help="of the stored flow, and the network's input (64)")
    parser.add_argument("--model", default="flow3d", help="network of the temporal stream (flow3d)")
    parser.add_argument("--work", type=Path, default=Path("downstream"), help="folder of the project (downstream)")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    given = parser.parse_args()
    if not given.source.exists():
        raise UserError(f"--source: {given.source} does not exist")
    _copy_project(given.work)
    right = {}
    for method in given.methods:
        for seed in given.seeds:
            _repro(given.work, _parameters(given, method, seed))
            right[method, seed] = _right(given.work)
            print(f"{method}, seed {seed}: {100 * right[method, seed].mean():.1f}", flush=True)
    table = compare(right, _groups(given.work))
    print(table.to_string(index=False))
    if given.json:
        given.json.write_text(json.dumps(table.to_dict("records"), indent=2) + "\n")


def compare(right: dict[tuple[str, int], pd.Series], groups: pd.Series, draws: int = 10_000) -> pd.DataFrame:
    """Top-1 in per cent by method, and differences to the first method, with intervals over groups.

    Args:
        right: by method and seed, whether each clip (index: clip id) was told right.
        groups: the group of every clip id; groups are drawn with replacement, whole.
        draws: of the bootstrap.
    """
    methods = list(dict.fromkeys(method for method, _ in right))
    accuracy = pd.DataFrame(
        {m: pd.concat([s for (k, _), s in right.items() if k == m], axis=1).mean(1) for m in methods}
    )
    by_group = accuracy.groupby(groups.reindex(accuracy.index)).agg(["sum", "count"])
    sums = np.stack([by_group[m, "sum"] for m in methods], axis=1)
    counts = by_group[methods[0], "count"].to_numpy()
    drawn = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws)
    means = 100 * (drawn @ sums) / (drawn @ counts)[:, None]
    rows = []
    for k, method in enumerate(methods):
        seeds = [100 * s.mean() for (m, _), s in right.items() if m == method]
        low, high = np.percentile(means[:, k], [2.5, 97.5])
        less, more = np.percentile(means[:, k] - means[:, 0], [2.5, 97.5])
        row = {"method": method, "seeds": " ".join(f"{s:.1f}" for s in seeds), "top1": round(float(np.mean(seeds)), 1)}
        row |= {"low": round(low, 1), "high": round(high, 1)}
        row |= {"difference": round(row["top1"] - rows[0]["top1"], 1) if rows else 0.0}
        rows.append(row | {"difference_low": round(less, 1), "difference_high": round(more, 1)})
    return pd.DataFrame(rows)


def _parameters(given: argparse.Namespace, method: str, seed: int) -> dict:
    values = yaml.safe_load((ROOT / "profiles" / "folder.yaml").read_text())
    flow = flow_settings(method, short_side=given.short_side, bound=8.0 * given.short_side / 64)
    values["seed"] = seed
    values["dataset"]["source"] = str(given.source.resolve())
    values["flow"] = flow.model_dump(by_alias=True)
    values["streams"]["temporal"].update(size=given.short_side, model=given.model)
    return values


def _copy_project(work: Path) -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("tests/", "metrics/", "dvc.lock")) and (ROOT / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, work / name)
    if not (work / ".git").exists():
        identity = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")
        for step in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "benchmark"]):
            subprocess.run(["git", *step], cwd=work, check=True)  # DVC wants a commit to start from


def _repro(work: Path, values: dict) -> None:
    (work / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["dvc", "repro", "score_flow@temporal-1"], cwd=work, env={**os.environ, "PATH": path})
    if done.returncode:
        raise UserError(f"dvc repro failed in {work}; its last lines say why")


def _right(work: Path) -> pd.Series:
    scores = read_scores(work / "data" / "scores" / "split1" / "temporal.npz")
    tested = np.asarray(scores.subset) == "test"
    right = np.asarray(scores.logits).argmax(axis=1) == np.asarray(scores.label)
    return pd.Series(right[tested].astype(float), index=np.asarray(scores.clip_id)[tested])


def _groups(work: Path) -> pd.Series:
    return read_clips(work / "data" / "clips.csv").set_index("clip_id")["group"]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
