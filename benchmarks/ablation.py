"""What each ingredient of the training recipe is worth: one switched at a time, several seeds, one table.

    python benchmarks/ablation.py --source DIR --weights FILE [--seeds 0 1 2] [--only recipe temporal-random]

DIR is a folder or an archive of clips as the `folder` data set takes them, FILE the ImageNet weights of
`tf_efficientnet_lite0`. `recipe` is `profiles/folder.yaml`; every other line switches what its name says, and
`notebooks` is the recipe of `profiles/notebooks.yaml` with the same 2D network. Each seed runs through DVC in a project
of its own (`--work`), `--jobs` of them side by side: what was computed once is not computed again, and a killed run
goes on. `notebooks` takes 12 GB of memory a project. The table gives top-1 on the test clips, the mean over the seeds,
with 95 % intervals over groups of clips, and the difference to the recipe.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from project import compare, copy_project, groups_of, repro, right_clips
from tqdm import tqdm

from twostream.core.parallel import cores
from twostream.errors import UserError
from twostream.profiles import load_profile

NETWORK = "timm/tf_efficientnet_lite0"
STREAMS = ("temporal", "spatial")
INFLATED = {
    "temporal.model": f"inflated/{NETWORK}",
    "temporal.sampling": {"mode": "segments", "segments": 3, "frames": 4, "stride": 2},
}
RANDOM = {"weights": "none", "freeze_bn": "none", "lr_new": 1.0}

# What is switched: dotted keys below `streams`, and what they become.
SWITCHES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "temporal-random": {f"temporal.{key}": value for key, value in RANDOM.items()},
    "temporal-inflated": INFLATED,
    "temporal-inflated-random": {**INFLATED, **{f"temporal.{key}": value for key, value in RANDOM.items()}},
    "temporal-one-segment": {"temporal.sampling.segments": 1},
    "temporal-ten-fields": {"temporal.sampling.frames": 10},
    "temporal-one-scale": {"temporal.augment.scales": [1.0]},
    "temporal-no-flip": {"temporal.augment.flip": False},
    "temporal-no-smoothing": {"temporal.label_smoothing": 0.0},
    "temporal-partial-bn": {"temporal.freeze_bn": "partial"},
    "temporal-ema": {"temporal.ema": 0.98},
    "temporal-mixup": {"temporal.mixup": 0.4},
    "temporal-demean": {"temporal.demean": True},
    "spatial-random": {f"spatial.{key}": value for key, value in RANDOM.items()},
    "spatial-all-bn": {"spatial.freeze_bn": "none"},
    "spatial-no-jitter": {"spatial.augment.jitter": 0.0},
    "spatial-dark": {"spatial.augment.gamma": 0.5, "spatial.augment.dark": 0.3},
    "notebooks": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Top-1 of the streams and their fusion, one ingredient at a time.")
    parser.add_argument("--source", required=True, type=Path, help="folder or archive of <class>/<clip>")
    parser.add_argument("--weights", required=True, type=Path, help="ImageNet weights of tf_efficientnet_lite0")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of everything random (0 1 2)")
    parser.add_argument("--only", nargs="+", default=list(SWITCHES), metavar="NAME", help=" ".join(SWITCHES))
    parser.add_argument("--jobs", type=int, default=cores(), help="projects side by side, a core each (all cores)")
    parser.add_argument("--work", type=Path, default=Path("ablation"), help="folder of the projects (ablation)")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    given = parser.parse_args()
    for path in (given.source, given.weights):
        if not path.exists():
            raise UserError(f"{path} does not exist")
    if unknown := set(given.only) - set(SWITCHES):
        raise UserError(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(SWITCHES)}")
    jobs = max(1, min(given.jobs, len(given.seeds)))
    with (
        tqdm(total=len(given.only) * len(given.seeds), desc="ablation", unit="run") as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        found = list(pool.map(lambda seed: _runs(given, seed, max(1, cores() // jobs), bar), given.seeds))
    groups = groups_of(given.work / f"seed-{given.seeds[0]}")
    tables = {}
    for what in (*STREAMS, "fusion"):
        # The order of names, not of seeds: differences are to the first.
        right = {(n, s): runs[n][what] for n in given.only for s, runs in zip(given.seeds, found, strict=True)}
        tables[what] = compare(right, groups)
        print(f"\n{what}\n\n{_markdown(tables[what])}")
    if given.json:
        given.json.write_text(json.dumps({w: t.to_dict("records") for w, t in tables.items()}, indent=2) + "\n")


def _runs(given: argparse.Namespace, seed: int, threads: int, bar: tqdm) -> dict[str, dict[str, pd.Series]]:
    """By name of the switch and by stream, whether each test clip was told right."""
    work = given.work / f"seed-{seed}"
    copy_project(work)
    found = {}
    for name in given.only:
        repro(work, _parameters(given, name, seed), "fuse@1", threads=threads, log=work / "dvc.log")
        files = {stream: f"data/scores/split1/{stream}.npz" for stream in STREAMS}
        found[name] = {
            what: right_clips(work, file) for what, file in (files | {"fusion": "data/fused/split1.npz"}).items()
        }
        said = ", ".join(f"{what} {100 * right.mean():.1f}" for what, right in found[name].items())
        tqdm.write(f"{name}, seed {seed}: {said}")
        bar.update()
    return found


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| switched | top-1 | interval | difference | interval | seeds |", "|---|---|---|---|---|---|"]
    for row in table.itertuples():
        difference = f"{row.difference:+.1f} | {row.difference_low:+.1f} to {row.difference_high:+.1f}"
        difference = difference if row.Index else "| "
        lines.append(f"| {row.method} | {row.top1} | {row.low} to {row.high} | {difference} | {row.seeds} |")
    return "\n".join(lines)


def _parameters(given: argparse.Namespace, name: str, seed: int) -> dict:
    profile = "notebooks" if name == "notebooks" else "folder"
    values = load_profile(profile)
    values["seed"] = seed
    values["dataset"].update(name="folder", source=str(given.source.resolve()), splits=[1])
    values["train"].update(rgb=["spatial"], flow=["temporal"])
    streams = values["streams"] = {stream: values["streams"][stream] for stream in STREAMS}
    for stream in streams.values():
        if stream["weights"] != "none":
            stream.update(weights=str(given.weights.resolve()), model=NETWORK)
    for key, value in SWITCHES[name].items():
        *path, last = key.split(".")
        section = streams
        for part in path:
            section = section[part]
        if last not in section:
            raise UserError(f"streams.{key} is not in profiles/folder.yaml")
        section[last] = value
    return values


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
