"""Shared by the command lines of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from twostream.core.parallel import cores
from twostream.errors import UserError


def run(work: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Call `work(args)`; an error of the user or of a file is one line and exit code 2, an interruption 130."""
    try:
        work(args)
    except (UserError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def videos_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of the benchmarks that run on videos."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("data/videos"), help="folder of videos")
    parser.add_argument("--clips", type=positive, default=max(24, 4 * cores()), help="number of clips, by name")
    parser.add_argument("--short-side", type=positive, default=240, metavar="PX", help="size of stored frames or flow")
    parser.add_argument("--workers", type=positive, default=0, help="processes in parallel; 0: as many as the pipeline")
    parser.add_argument("--repeats", type=positive, default=5, help="timed rounds")
    return parser


def positive(text: str) -> int:
    """Return an argument that is an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def short(value: float) -> str:
    """Format a number with four significant digits."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
