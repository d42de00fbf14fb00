"""`make torture`: run every case and print a table; exit code 1 if a case is lost or wrong."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torture import archives, disk, hostile, kills, mirrors, together, videos
from torture.ledger import Case, Ledger
from torture.project import Project
from twostream.profiles import load_profile

FAMILIES: dict[str, Callable[[Project, random.Random], Iterator[Case]]] = {
    "kills": lambda project, rng: kills.cases(project, rng, 30),
    "disk": lambda project, rng: disk.cases(project, rng, 5),
    "archives": archives.cases,
    "mirrors": mirrors.cases,
    "hostile": lambda project, rng: hostile.cases(project, rng, 6),
    "together": lambda project, rng: together.cases(project, rng, 3),
    "videos": lambda project, rng: videos.cases(project, rng, 500),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"what to run: {', '.join(FAMILIES)} (all)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    parser.add_argument("--projects", type=int, default=2, help="how many projects run cases at a time (2)")
    parser.add_argument("--most", type=int, metavar="N", help="run so many random cases of each family")
    args = parser.parse_args()
    ledger, started = Ledger(), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder,
        ThreadPoolExecutor(args.projects) as pool,
    ):
        list(pool.map(lambda part: _work(Path(folder, str(part)), part, args, ledger), range(args.projects)))
    print(ledger.table())
    print(f"seed {args.seed}, {time.monotonic() - started:.0f} s")
    sys.exit(1 if ledger.failures() else 0)


def _work(top: Path, number: int, args: argparse.Namespace, ledger: Ledger) -> None:
    """Run this worker's part of the cases on a project of its own."""
    project = Project(top, load_profile("demo"))
    try:
        for name, cases in FAMILIES.items():
            if not args.families or name in args.families:
                rng = random.Random(f"{name} {args.seed}")
                made = [*cases(project, rng)]
                if args.most and len(made) > args.most:
                    made = rng.sample(made, args.most)
                for case in made[number :: args.projects]:
                    ledger.run(case)
    finally:
        project.close()


if __name__ == "__main__":
    main()
