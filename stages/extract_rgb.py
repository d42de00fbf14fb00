"""Stage: pack the RGB frames of every readable clip into data/rgb/."""

from stages.common import extract_clips, extraction_cost, find_cache, run
from twostream.clipstore import extract
from twostream.params import Params


def extract_rgb(params: Params) -> None:
    """Write data/rgb/<class>/<clip>.zip; clips that were extracted before come from the cache."""
    extract_clips("rgb", extract.extract_rgb, params.rgb, params.runtime.workers)


def cost(params: Params) -> dict[str, int]:
    """Return what `extract_rgb` would do: numbers of clips."""
    return extraction_cost(extract.rgb_job(params.rgb, find_cache()))


if __name__ == "__main__":
    run(extract_rgb)
