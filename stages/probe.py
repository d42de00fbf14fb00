"""Stage: list every clip of the data set with what decoding its video gives."""

from pathlib import Path

from stages.common import open_cache, run
from twostream.core.cache import RecordCache
from twostream.datasets.probing import list_and_probe
from twostream.datasets.tables import write_table
from twostream.params import Params


def probe(params: Params) -> None:
    """Write data/clips.csv; a video that was decoded before is not decoded again."""
    cache = RecordCache(open_cache().root / "probes.jsonl")
    clips = list_and_probe(params.dataset, Path("data/videos"), Path("data/annotations"), cache, params.runtime.workers)
    write_table(clips, "data/clips.csv")


if __name__ == "__main__":
    run(probe)
