"""Stage: bring the data set's videos and its split files into data/."""

import shutil
from pathlib import Path

from stages.common import open_cache, run
from twostream.core.cache import key_of
from twostream.datasets import get_dataset
from twostream.params import Params

VIDEOS, ANNOTATIONS = Path("data/videos"), Path("data/annotations")


def download(params: Params) -> None:
    """Fill data/videos/<class>/ and data/annotations/ from the source that params.yaml names."""
    dataset = params.dataset
    for folder in (VIDEOS, ANNOTATIONS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # Half a download is worth keeping: it waits beside DVC's cache, under the name of its source.
    scratch = open_cache().root / "download" / key_of(name=dataset.name, source=dataset.source)[:16]
    scratch.mkdir(parents=True, exist_ok=True)
    get_dataset(dataset.name).fetch(dataset, params.seed, VIDEOS, ANNOTATIONS, scratch)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    run(download)
