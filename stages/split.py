"""Stage: assign every clip to train, val or test, without decoding it."""

from pathlib import Path

from stages.common import open_cache, run
from twostream.core.outputs import replaced
from twostream.datasets.splits import split_clips
from twostream.datasets.tables import read_clips, write_table
from twostream.params import Params

SPLITS = Path("data/splits")


def split(params: Params) -> None:
    """Write data/splits/<n>.csv for every number of `dataset.splits`."""
    clips = read_clips("data/clips.csv")
    with replaced([SPLITS], open_cache()):
        for number, table in split_clips(params.dataset, clips, Path("data/annotations"), params.seed).items():
            write_table(table, SPLITS / f"{number}.csv")


if __name__ == "__main__":
    run(split)
