"""Stage: pack the optical flow of every readable clip into data/flow/."""

from pathlib import Path

from stages.common import FROM_CACHE, find_cache, open_cache, run
from twostream.clipstore.extract import count_missing, flow_job
from twostream.clipstore.extract import extract_flow as extract
from twostream.core.outputs import replaced
from twostream.datasets.tables import read_clips
from twostream.params import Params


def extract_flow(params: Params) -> None:
    """Write data/flow/<class>/<clip>.zip; clips that were extracted before come from the cache."""
    clips, out, cache = read_clips("data/clips.csv"), Path("data/flow"), open_cache()
    with replaced([out], cache, empties=False):
        counts = extract(clips, Path("data/videos"), out, params.flow, cache, params.runtime.workers)
    print("flow: {clips} clips, {extracted} extracted, {cached} from the cache".format(**counts))


def cost(params: Params) -> dict[str, int]:
    """Return what `extract_flow` would do: numbers of clips."""
    job = flow_job(params.flow, find_cache())
    todo, cached = count_missing(read_clips("data/clips.csv"), Path("data/videos"), Path("data/flow"), job)
    return {"clips to extract": todo, FROM_CACHE: cached}


if __name__ == "__main__":
    run(extract_flow)
