"""Stage: pack the RGB frames of every readable clip into data/rgb/."""

from pathlib import Path

from stages.common import FROM_CACHE, find_cache, open_cache, run
from twostream.clipstore.extract import count_missing, rgb_job
from twostream.clipstore.extract import extract_rgb as extract
from twostream.core.outputs import replaced
from twostream.datasets.tables import read_clips
from twostream.params import Params


def extract_rgb(params: Params) -> None:
    """Write data/rgb/<class>/<clip>.zip; clips that were extracted before come from the cache."""
    clips, out, cache = read_clips("data/clips.csv"), Path("data/rgb"), open_cache()
    with replaced([out], cache, empties=False):
        counts = extract(clips, Path("data/videos"), out, params.rgb, cache, params.runtime.workers)
    print("rgb: {clips} clips, {extracted} extracted, {cached} from the cache".format(**counts))


def cost(params: Params) -> dict[str, int]:
    """Return what `extract_rgb` would do: numbers of clips."""
    job = rgb_job(params.rgb, find_cache())
    todo, cached = count_missing(read_clips("data/clips.csv"), Path("data/videos"), Path("data/rgb"), job)
    return {"clips to extract": todo, FROM_CACHE: cached}


if __name__ == "__main__":
    run(extract_rgb)
