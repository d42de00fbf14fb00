"""Stage: pack the optical flow of every readable clip into data/flow/."""

from stages.common import extract_clips, extraction_cost, find_cache, run
from twostream.clipstore import extract
from twostream.params import Params


def extract_flow(params: Params) -> None:
    """Write data/flow/<class>/<clip>.zip; clips that were extracted before come from the cache."""
    extract_clips("flow", extract.extract_flow, params.flow, params.runtime.workers)


def cost(params: Params) -> dict[str, int]:
    """Return what `extract_flow` would do: numbers of clips."""
    return extraction_cost(extract.flow_job(params.flow, find_cache()))


if __name__ == "__main__":
    run(extract_flow)
