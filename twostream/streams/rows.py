"""One row of numbers per clip (logits, or features), computed once and found by the content of the clip's frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from twostream.clipstore import ClipReader
from twostream.core.cache import RecordCache
from twostream.core.parallel import progress
from twostream.views.examples import Example

# Yields the float32 row [R] of each clip with the clip's place in the list, in any order.
Compute = Callable[[list[Example]], Iterable[tuple[int, np.ndarray]]]


def rows_of_clips(records: Path, examples: Sequence[Example], compute: Compute, what: str) -> tuple[np.ndarray, int]:
    """Return one row per clip; rows that earlier runs computed come from the cache.

    Args:
        records: the cache's file. Its name holds what a row follows from, except the clip.
        compute: called only where there is something to compute.
        what: name of the progress bar.

    Returns:
        float32 [clips, R], and how many of the clips were computed.
    """
    known = RecordCache(records)
    contents = [content_of(example) for example in examples]
    todo = [(example, content) for example, content in zip(examples, contents, strict=True) if content not in known]
    if todo:
        with progress(len(todo), what, "clip") as bar:
            for number, row in compute([example for example, _ in todo]):
                known.add(todo[number][1], row.tobytes().hex())
                bar.update()
    known.remove_unused()
    return np.stack([np.frombuffer(bytes.fromhex(known[content]), np.float32) for content in contents]), len(todo)


def count_missing_rows(records: Path, examples: Sequence[Example]) -> int:
    """Return how many clips :func:`rows_of_clips` would compute."""
    known = RecordCache(records)
    return sum(content_of(example) not in known for example in examples)


def content_of(example: Example) -> str:
    """Return the digest of a clip's frames."""
    with ClipReader(example.path) as clip:
        return clip.digest()
