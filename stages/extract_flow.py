"""Stage: pack the optical flow of every readable clip into data/flow/."""

from pathlib import Path

from stages.common import open_cache, run
from twostream.clipstore.extract import extract_flow as extract
from twostream.datasets.tables import read_clips
from twostream.params import Params


def extract_flow(params: Params) -> None:
    """Write data/flow/<class>/<clip>.zip; clips that were extracted before come from the cache."""
    clips = read_clips("data/clips.csv")
    counts = extract(clips, Path("data/videos"), Path("data/flow"), params.flow, open_cache(), params.runtime.workers)
    print("flow: {clips} clips, {extracted} extracted, {cached} from the cache".format(**counts))


if __name__ == "__main__":
    run(extract_flow)
