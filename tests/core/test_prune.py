from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from twostream.core.cache import FileCache
from twostream.core.prune import parts, prune


@pytest.fixture
def root(tmp_path) -> Path:
    """A cache with four files of 1,000 bytes, unused for 0, 10, 20 and 30 days, and one that is being built."""
    for days, name in enumerate(("scores/a.jsonl", "training/key/last.ckpt", "features/b.jsonl", "download/c/d.zip")):
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(1000))
        os.utime(path, (time.time() - days * 864000,) * 2)
    for name in ("building/key.0", "download/c.lock"):
        (tmp_path / "cache" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "cache" / name).write_bytes(bytes(1000))
    return tmp_path / "cache"


def test_parts_are_listed_with_their_size_and_age(root):
    found = {part.name: (part.files, part.size, round(part.oldest)) for part in parts(root)}
    assert found == {
        "scores": (1, 1000, 0),
        "training": (1, 1000, 10),
        "features": (1, 1000, 20),
        "download": (1, 1000, 30),
    }
    assert parts(root / "nowhere") == []


@pytest.mark.parametrize(
    ("days", "size", "left"),
    [
        (None, None, ["scores", "training", "features", "download"]),
        (15, None, ["scores", "training"]),
        (None, 2500, ["scores", "training"]),
        (15, 1000, ["scores"]),
        (25, 9999, ["scores", "training", "features"]),
    ],
)
def test_the_oldest_files_go_first(root, days, size, left):
    count, removed = prune(root, days, size)
    assert {part.name for part in parts(root)} == set(left)
    assert (count, removed) == (4 - len(left), 1000 * (4 - len(left)))
    assert (root / "building/key.0").exists() and (root / "download/c.lock").exists()


def test_a_file_that_is_served_counts_as_used(tmp_path):
    cache = FileCache(tmp_path / "cache", None)
    for key in ("used", "unused"):
        cache.make(key, tmp_path / key, lambda path, key=key: path.write_text(key))
    for path in (tmp_path / "cache/index").rglob("*"):
        os.utime(path, (0, 0))
    assert cache.serve("used", tmp_path / "again")
    prune(tmp_path / "cache", 1, None)
    assert [cache.has(key) for key in ("used", "unused")] == [True, False]
