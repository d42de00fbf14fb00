"""Stage: look at the data set: classes, durations, resolutions, a frame of each class."""

from pathlib import Path

from stages.common import run
from twostream.datasets.tables import read_clips
from twostream.params import Params
from twostream.report.explore import write_exploration


def explore(params: Params) -> None:
    """Write tables, charts and a contact sheet into metrics/explore/."""
    write_exploration(read_clips("data/clips.csv"), Path("data/videos"), Path("metrics/explore"))


if __name__ == "__main__":
    run(explore)
