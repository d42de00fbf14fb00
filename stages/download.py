"""Stage: bring the videos and split files of the data set into data/."""

import shutil
from pathlib import Path

from stages.common import open_cache, run
from twostream.core.outputs import note_written, refuse_foreign
from twostream.core.workspace import absent_in_experiments
from twostream.datasets import get_dataset
from twostream.params import Params
from twostream.sources import check_source

VIDEOS, ANNOTATIONS = Path("data/videos"), Path("data/annotations")


def download(params: Params) -> None:
    """Fill data/videos/<class>/ and data/annotations/ from `dataset.source`."""
    cache = open_cache()
    check_source(params.dataset.source)
    refuse_foreign((VIDEOS, ANNOTATIONS), cache)
    for folder in (VIDEOS, ANNOTATIONS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # What is fetched stays beside DVC's cache.
    get_dataset(params.dataset.name).fetch(params.dataset, VIDEOS, ANNOTATIONS, cache.root / "download")
    note_written((VIDEOS, ANNOTATIONS), cache)
    if warning := absent_in_experiments(params.dataset.source):
        print(f"WARNING: {warning}")


if __name__ == "__main__":
    run(download)
