"""Shared by the command lines of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from twostream.errors import UserError


def run(work: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Call `work(args)`; a UserError is one line and exit code 2, an interruption exit code 130."""
    try:
        work(args)
    except UserError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def positive(text: str) -> int:
    """Return an argument that is an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
