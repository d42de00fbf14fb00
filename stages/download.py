"""Stage: bring the videos and split files of the data set into data/."""

from pathlib import Path

from stages.common import open_cache, run
from twostream.core.outputs import replaced
from twostream.core.workspace import absent_in_experiments
from twostream.datasets import get_dataset
from twostream.params import Params
from twostream.sources import check_source

VIDEOS, ANNOTATIONS = Path("data/videos"), Path("data/annotations")


def download(params: Params) -> None:
    """Fill data/videos/<class>/ and data/annotations/ from `dataset.source`."""
    cache = open_cache()
    check_source(params.dataset.source)
    with replaced((VIDEOS, ANNOTATIONS), cache, empties=False):
        # What is fetched stays beside DVC's cache.
        get_dataset(params.dataset.name).fetch(params.dataset, VIDEOS, ANNOTATIONS, cache.root / "download")
    if warning := absent_in_experiments(params.dataset.source):
        print(f"WARNING: {warning}")


if __name__ == "__main__":
    run(download)
