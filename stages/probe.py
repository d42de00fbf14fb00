"""Stage: list every clip of the data set with what decoding its video gives."""

from pathlib import Path

from stages.common import FROM_CACHE, find_cache, open_cache, run
from twostream.core.cache import RecordCache
from twostream.datasets.probing import count_undecoded, list_and_probe
from twostream.datasets.tables import write_table
from twostream.params import Params


def probe(params: Params) -> None:
    """Write data/clips.csv; a video that was decoded before is not decoded again."""
    cache = RecordCache(open_cache().root / "probes.jsonl")
    clips = list_and_probe(params.dataset, Path("data/videos"), Path("data/annotations"), cache, params.runtime.workers)
    write_table(clips, "data/clips.csv")


def cost(params: Params) -> dict[str, int]:
    """Return what `probe` would do: numbers of clips."""
    cache = RecordCache(find_cache().root / "probes.jsonl")
    todo, cached = count_undecoded(params.dataset, Path("data/videos"), Path("data/annotations"), cache)
    return {"clips to decode": todo, FROM_CACHE: cached}


if __name__ == "__main__":
    run(probe)
