"""Stage: bring the videos and split files of the data set into data/."""

import shutil
from pathlib import Path

from stages.common import open_cache, run
from twostream.core.cache import key_of
from twostream.datasets import get_dataset
from twostream.params import Params

VIDEOS, ANNOTATIONS = Path("data/videos"), Path("data/annotations")


def download(params: Params) -> None:
    """Fill data/videos/<class>/ and data/annotations/ from `dataset.source`."""
    dataset = params.dataset
    for folder in (VIDEOS, ANNOTATIONS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # The downloads of an interrupted run stay beside DVC's cache, in a folder named after their source.
    scratch = open_cache().root / "download" / key_of(name=dataset.name, source=dataset.source)[:16]
    get_dataset(dataset.name).fetch(dataset, params.seed, VIDEOS, ANNOTATIONS, scratch)


if __name__ == "__main__":
    run(download)
