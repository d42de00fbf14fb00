"""Stage: probe every clip by decoding it, and assign it to train, val or test."""

from pathlib import Path

from stages.common import run
from twostream.datasets.probing import list_clips
from twostream.datasets.tables import write_table
from twostream.params import Params


def split(params: Params) -> None:
    """Write data/clips.csv and data/splits/<n>.csv."""
    clips, splits = list_clips(
        params.dataset, params.seed, Path("data/videos"), Path("data/annotations"), params.runtime.workers
    )
    write_table(clips, "data/clips.csv")
    for number, table in splits.items():
        write_table(table, f"data/splits/{number}.csv")


if __name__ == "__main__":
    run(split)
