"""Measure whether the flow method matters for recognition: train the temporal stream on the flow of each method.

    python benchmarks/downstream.py --source DIR [--methods farneback dis-medium tvl1-balanced] [--seeds 0 1 2]

DIR is a folder or an archive of clips as the `folder` data set takes them. Everything runs through DVC in a project of
its own (`--work`), with `profiles/folder.yaml` but for a network from scratch, so that what was computed once is not
computed again and a killed run goes on. The table gives top-1 on the test clips: the mean over the seeds and the
difference to the first method, both with a 95 % interval over groups of clips.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from flow_methods import flow_settings
from project import compare, copy_project, groups_of, repro, right_clips

from twostream.errors import UserError
from twostream.profiles import load_profile

# Settings of a small 3D network from scratch: no pretraining hides differences between the flow methods.
SCRATCH = {
    "weights": "none",
    "sampling": {"mode": "segments", "segments": 1, "frames": 16, "stride": 2},
    "epochs": 20,
    "patience": 10,
    "lr": 0.002,
    "warmup_epochs": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Top-1 of the temporal stream by flow method.")
    parser.add_argument("--source", required=True, type=Path, help="folder or archive of <class>/<clip>")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["farneback", "dis-medium", "tvl1-balanced"],
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
    copy_project(given.work)
    right = {}
    for method in given.methods:
        for seed in given.seeds:
            repro(given.work, _parameters(given, method, seed), "score_flow@temporal-1")
            right[method, seed] = right_clips(given.work, "data/scores/split1/temporal.npz")
            print(f"{method}, seed {seed}: {100 * right[method, seed].mean():.1f}", flush=True)
    table = compare(right, groups_of(given.work))
    print(table.to_string(index=False))
    if given.json:
        given.json.write_text(json.dumps(table.to_dict("records"), indent=2) + "\n")


def _parameters(given: argparse.Namespace, method: str, seed: int) -> dict:
    values = load_profile("folder")
    flow = flow_settings(method, short_side=given.short_side, bound=8.0 * given.short_side / 64)
    values["seed"] = seed
    values["dataset"]["source"] = str(given.source.resolve())
    values["flow"] = flow.model_dump(by_alias=True)
    values["streams"]["temporal"].update(SCRATCH, size=given.short_side, model=given.model)
    return values


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
