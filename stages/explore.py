"""Stage: look at the data set: classes, durations, resolutions, a frame of each class."""

from pathlib import Path

from stages.common import open_cache, run
from twostream.core.outputs import replaced
from twostream.datasets.tables import read_clips
from twostream.params import Params
from twostream.report.explore import write_exploration


def explore(params: Params) -> None:
    """Write tables, charts and a contact sheet into metrics/explore/."""
    clips, out = read_clips("data/clips.csv"), Path("metrics/explore")
    with replaced([out], open_cache()):
        write_exploration(clips, Path("data/videos"), out)


if __name__ == "__main__":
    run(explore)
