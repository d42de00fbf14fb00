"""What each ingredient of the training recipe is worth: one switched at a time, several seeds, one table.

    python benchmarks/ablation.py --source DIR --weights FILE [--seeds 0 1 2] [--only recipe temporal-random]

DIR is a folder or an archive of clips as the `folder` data set takes them, FILE the ImageNet weights of
`tf_efficientnet_lite0`. Everything runs through DVC in a project of its own (`--work`): what was computed once is not
computed again, and a killed run goes on. The table gives top-1 on the test clips of the temporal stream, the spatial
stream and their fusion: the mean over the seeds, with 95 % intervals over groups of clips, and the difference of the
temporal stream to the whole recipe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from project import ROOT, compare, copy_project, groups_of, repro, right_clips

from twostream.errors import UserError

NETWORK = "timm/tf_efficientnet_lite0"
STREAMS = ("temporal", "spatial")

# Dotted keys below `streams`, and what they are switched to.
SWITCHES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "temporal-random": {"temporal.weights": "none"},
    "temporal-inflated": {
        "temporal.model": f"inflated/{NETWORK}",
        "temporal.sampling": {"mode": "segments", "segments": 1, "frames": 8, "stride": 2},
    },
    "temporal-inflated-random": {
        "temporal.model": f"inflated/{NETWORK}",
        "temporal.sampling": {"mode": "segments", "segments": 1, "frames": 8, "stride": 2},
        "temporal.weights": "none",
    },
    "one-segment": {"temporal.sampling.segments": 1},
    "one-crop-scale": {"temporal.augment.scales": [1.0]},
    "no-flip": {"temporal.augment.flip": False},
    "no-smoothing": {"temporal.label_smoothing": 0.0},
    "partial-bn": {"temporal.freeze_bn": "partial"},
    "ema": {"temporal.ema": 0.97},
    "mixup": {"temporal.mixup": 0.3},
    "demean": {"temporal.demean": True},
    "spatial-partial-bn": {"spatial.freeze_bn": "partial"},
    "spatial-dark": {"spatial.augment.gamma": 0.5, "spatial.augment.dark": 0.3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Top-1 of the streams and their fusion, one ingredient at a time.")
    parser.add_argument("--source", required=True, type=Path, help="folder or archive of <class>/<clip>")
    parser.add_argument("--weights", required=True, type=Path, help="ImageNet weights of tf_efficientnet_lite0")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of training (0 1 2)")
    parser.add_argument("--only", nargs="+", default=list(SWITCHES), metavar="NAME", help=" ".join(SWITCHES))
    parser.add_argument("--work", type=Path, default=Path("ablation"), help="folder of the project (ablation)")
    given = parser.parse_args()
    for path in (given.source, given.weights):
        if not path.exists():
            raise UserError(f"{path} does not exist")
    if unknown := set(given.only) - set(SWITCHES):
        raise UserError(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(SWITCHES)}")
    copy_project(given.work)
    right = {name: {} for name in (*STREAMS, "fusion")}
    for name in given.only:
        for seed in given.seeds:
            repro(given.work, _parameters(given, SWITCHES[name], seed), "fuse@1")
            for stream in STREAMS:
                right[stream][name, seed] = right_clips(given.work, f"data/scores/split1/{stream}.npz")
            right["fusion"][name, seed] = right_clips(given.work, "data/fused/split1.npz")
            said = ", ".join(f"{stream} {100 * right[stream][name, seed].mean():.1f}" for stream in right)
            print(f"{name}, seed {seed}: {said}", flush=True)
    for stream, found in right.items():
        print(f"\n{stream}\n{_table(found, groups_of(given.work)).to_string(index=False)}")


def _table(right: dict[tuple[str, int], pd.Series], groups: pd.Series) -> pd.DataFrame:
    return compare(right, groups).rename(columns={"method": "switched"})


def _parameters(given: argparse.Namespace, switched: dict[str, Any], seed: int) -> dict:
    values = yaml.safe_load((ROOT / "profiles" / "folder.yaml").read_text())
    values["seed"] = seed
    values["dataset"]["source"] = str(given.source.resolve())
    values["rgb"]["short_side"], values["flow"]["short_side"] = 160, 128
    values["train"].update(rgb=["spatial"], flow=["temporal"])
    values["score"].update(segments=5, crops=1, flip=True)
    common = {"model": NETWORK, "weights": str(given.weights.resolve()), "dropout": 0.5, "epochs": 12, "patience": 12}
    common |= {"batch_size": 16, "optimizer": "adamw", "weight_decay": 0.05, "schedule": "cosine", "warmup_epochs": 1}
    common |= {"label_smoothing": 0.1}
    streams = {name: {**values["streams"][name], **common} for name in STREAMS}
    streams["temporal"].update(size=112, lr=0.0005)
    streams["temporal"]["sampling"] = {"mode": "segments", "segments": 3, "frames": 5, "stride": 1}
    streams["spatial"].update(size=128, lr=0.0002)
    streams["spatial"]["sampling"] = {"mode": "segments", "segments": 3, "frames": 1, "stride": 1}
    for key, value in switched.items():
        *path, last = key.split(".")
        section = streams
        for part in path:
            section = section[part]
        section[last] = value
    values["streams"] = streams
    return values


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
