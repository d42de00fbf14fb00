"""Stage: assign every clip to train, val or test, without decoding it."""

import shutil
from pathlib import Path

from stages.common import open_cache, run
from twostream.core.outputs import note_written, refuse_foreign
from twostream.datasets.splits import split_clips
from twostream.datasets.tables import read_clips, write_table
from twostream.params import Params

SPLITS = Path("data/splits")


def split(params: Params) -> None:
    """Write data/splits/<n>.csv for every number of `dataset.splits`."""
    cache = open_cache()
    refuse_foreign([SPLITS], cache)
    shutil.rmtree(SPLITS, ignore_errors=True)
    clips = read_clips("data/clips.csv")
    for number, table in split_clips(params.dataset, clips, Path("data/annotations"), params.seed).items():
        write_table(table, SPLITS / f"{number}.csv")
    note_written([SPLITS], cache)


if __name__ == "__main__":
    run(split)
