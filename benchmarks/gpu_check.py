"""Check on a machine with a GPU that the GPU code is right, and measure how fast each part of it is.

    python benchmarks/gpu_check.py --prepare .gpu --pairs DIR --videos DIR  # data and packages for a machine offline
    python benchmarks/gpu_check.py --dry                                    # every part on the CPU at a tiny size
    bash benchmarks/gpu_check.sh                                            # on that machine: everything
    python benchmarks/gpu_check.py --report > docs/gpu.md                   # its results as a document

A part that fails or takes too long costs no other: each runs in a process of its own, the most important ones first.
Every row that a part yields is a line of JSON in the file of results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from command import positive, run, short
from gpu_parts import HEIGHT, PARTS, WIDTH, Row, Setup

from twostream.core.device import has_gpu
from twostream.errors import UserError, reason

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/gpu.jsonl"
# What the project needs and a machine with PyTorch, Lightning, timm, OpenCV and scikit-learn may lack.
PACKAGES = (
    "av",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "ruamel.yaml",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it asks for; a UserError is one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Check and measure the GPU code.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to run, of {', '.join(PARTS)} (all)")
    parser.add_argument("--data", type=Path, default=Path(".gpu"), metavar="DIR", help="folder of --prepare (.gpu)")
    parser.add_argument("--results", type=Path, default=Path("gpu.jsonl"), help="file of results (gpu.jsonl)")
    parser.add_argument("--seconds", type=positive, default=500, help="no part starts or goes on after these (500)")
    parser.add_argument("--dry", action="store_true", help="run on the CPU at a tiny size")
    parser.add_argument("--report", nargs="?", type=Path, const=RESULTS, metavar="FILE", help="print docs/gpu.md")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="write data and packages for the check to a folder")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="pairs with known flow, as for flow.py")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="videos as <class>/<file>")
    parser.add_argument("--megabytes", type=positive, default=12, help="of videos to copy (12)")
    parser.add_argument("--python", default="3.12", help="Python of the machine with the GPU (3.12)")
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    if args.prepare and not (args.pairs and args.videos):
        parser.error("--prepare needs --pairs and --videos")
    run(_prepare if args.prepare else _report if args.report else _check, args)


def _prepare(args: argparse.Namespace) -> None:
    copy_pairs(args.pairs, args.prepare / "pairs")
    copy_videos(args.videos, args.prepare / "videos", args.megabytes * 1_000_000)
    fetch_packages(args.prepare / "wheels", args.python)
    size = sum(path.stat().st_size for path in args.prepare.rglob("*") if path.is_file())
    print(f"{args.prepare}: {size / 1e6:.0f} MB; copy it with the project to the machine, and there run")
    print(f"bash benchmarks/gpu_check.sh {args.prepare}")


def copy_pairs(source: Path, target: Path) -> None:
    """Write pairs with known flow at the size at which the check solves them."""
    import cv2
    from groundtruth import UNKNOWN, read_pairs, resized

    for pair in (resized(pair, WIDTH, HEIGHT) for pair in read_pairs(source)):
        folder = target / pair.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in (("frame1.png", pair.first), ("frame2.png", pair.second)):
            cv2.imwrite(str(folder / name), image)
        flow = np.where(pair.known[..., None], pair.truth, np.float32(10 * UNKNOWN))
        cv2.writeOpticalFlow(str(folder / "flow.flo"), flow)


def copy_videos(source: Path, target: Path, size: float) -> None:
    """Copy videos up to a size in bytes, the classes in turn, so that each has about the same number.

    Raises:
        UserError: there are none.
    """
    from twostream.datasets import is_video
    from twostream.sources.walk import walk_files

    classes: dict[Path, list[Path]] = {}
    for path in filter(is_video, walk_files(source)):
        classes.setdefault(path.parent, []).append(path)
    in_turn = [path for turn in itertools.zip_longest(*classes.values()) for path in turn if path]
    if not in_turn:
        raise UserError(f"{source}: no videos; name a folder of <class>/<file> with --videos")
    for path in in_turn:
        size -= (source / path).stat().st_size
        if size < 0:
            return
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path.parent.name / path.name)


def fetch_packages(target: Path, python: str) -> None:
    """Download the wheels of `PACKAGES`, in the versions installed here, for Linux on x86-64.

    Raises:
        UserError: pip cannot find one.
    """
    systems = ["manylinux2014", *(f"manylinux_2_{n}" for n in (17, 24, 27, 28, 31, 34))]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={python}", "--implementation=cp", f"--dest={target}"]
    command += [f"--platform={system}_x86_64" for system in systems]
    command += [f"{name}=={version(name)}" for name in PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"pip download failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")


def _check(args: argparse.Namespace) -> None:
    if not (args.data / "videos").is_dir():
        raise UserError(
            f"{args.data}: no data for the check; make them with --prepare {args.data} --pairs DIR --videos DIR"
        )
    if args.dry:
        os.environ.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")  # before PyTorch is imported
    elif not has_gpu():
        raise UserError("PyTorch finds no GPU that it can use; --dry runs the check on the CPU")
    end = time.monotonic() + args.seconds
    failed = []
    for name in args.parts or PARTS:
        here = args.dry or args.parts
        if not (_run_part(name, args) if here else _run_apart(name, args, end)):
            failed.append(name)
    if failed:
        raise UserError(f"{len(failed)} parts failed: {', '.join(failed)}; see {args.results}")


def _run_apart(name: str, args: argparse.Namespace, end: float) -> bool:
    """Run a part in a process of its own, until `end` at most; return False if it fails."""
    seconds = min(PARTS[name].seconds, end - time.monotonic())
    if seconds < 10:
        return False
    command = [sys.executable, __file__, name, "--data", str(args.data), "--results", str(args.results)]
    try:
        return subprocess.run(command, timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        _write(args.results, {"part": name, "error": f"not finished after {seconds:.0f} s"})
        return False


def _run_part(name: str, args: argparse.Namespace) -> bool:
    """Append the rows of a part to the results as they come; return False if it fails."""
    with tempfile.TemporaryDirectory() as work:
        try:
            for row in PARTS[name].rows(Setup(args.data, Path(work), args.dry)):
                _write(args.results, {"part": name, **row})
        except Exception as error:  # the next part runs; this one may have had no memory or a broken device
            _write(args.results, {"part": name, "error": reason(error)})
            traceback.print_exc()
            return False
    return True


def _write(results: Path, row: Row) -> None:
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, default=float) + "\n")
    print(", ".join(f"{key} {_cell(value)}" for key, value in row.items()), flush=True)


def _report(args: argparse.Namespace) -> None:
    if not args.report.is_file() and args.report != RESULTS:
        raise UserError(f"{args.report}: no such file of results")
    lines = args.report.read_text(encoding="utf-8").splitlines() if args.report.is_file() else []
    print(document([json.loads(line) for line in lines]), end="")


def document(rows: Sequence[Row]) -> str:
    """Return docs/gpu.md for the rows of a check; what has no rows is said to be unmeasured."""
    machine = next((row for row in rows if row["part"] == "machine" and "card" in row), None)
    state = "**Nothing has been measured on a GPU yet.**"
    if machine:
        facts = {name: value for name, value in machine.items() if name not in ("part", "card", "date")}
        listed = ", ".join(f"{name} {_cell(value)}" for name, value in facts.items())
        state = f"Measured on {machine['card']} on {machine['date']} ({listed})."
    sections = [_INTRODUCTION.format(state=state)]
    for name, part in PARTS.items():
        if name != "machine":
            found = [{key: row[key] for key in row if key != "part"} for row in rows if row["part"] == name]
            content = _table(found) if found else "Not measured yet."
            sections.append(f"## {part.title}\n\n{textwrap.fill(part.text, 120)}\n\n{content}\n")
    return "\n".join(sections)


_INTRODUCTION = """# On a GPU

{state}

This page is written by `python benchmarks/gpu_check.py --report > docs/gpu.md` from the results of a check that goes
through all GPU code. Without a GPU the tests interpret and compile its kernels on the CPU.

```bash
python benchmarks/gpu_check.py --prepare .gpu --pairs DIR --videos DIR  # data and packages for a machine offline
python benchmarks/gpu_check.py --dry                                    # every part on the CPU at a tiny size
bash benchmarks/gpu_check.sh                                            # on that machine: ten minutes at most
cp .gpu/out/gpu.jsonl docs/                                             # the results; then write this page
```

The same input gives the same bytes on a CPU. On a GPU the check compares them, for flow and for a training. They are
not promised for `i3d`, `video/s3d` and `video/mvit_v2_s`: their 3D pooling windows overlap, and PyTorch has no
deterministic gradient for that, so two trainings of them may differ.
"""


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return short(value) if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
