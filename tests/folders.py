"""What tests of the data set `folder` share: files to copy, and the copy with its clips and splits."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import dataset_settings

from twostream import params
from twostream.datasets import folder
from twostream.errors import UserError


def settings(source: Path | str, **changes: object) -> params.Dataset:
    return dataset_settings(**{"name": "folder", "source": str(source), **changes})


def fill(root: Path, *names: str | bytes) -> Path:
    """Files whose content is their own name."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(os.fsencode(name))
    return root


def run(dataset: params.Dataset, place: Path) -> SimpleNamespace:
    folder.fetch(dataset, place / "videos", place / "annotations", place / "scratch")
    assert all(path.suffix == ".lock" for path in (place / "scratch").iterdir())
    clips = folder.list_clips(dataset, place / "videos", place / "annotations")
    return SimpleNamespace(clips=clips, splits=folder.list_splits(dataset, clips, place / "annotations"))


def refused(dataset: params.Dataset, place: Path) -> str:
    with pytest.raises(UserError) as caught:
        run(dataset, place)
    assert not (place / "videos.part").exists() and not (place / "annotations.part").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)
