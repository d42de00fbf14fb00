"""Stage: fuse the streams' scores of one split; the fusion is fitted without the test clips."""

from pathlib import Path

from stages.common import run
from twostream.datasets.tables import write_table
from twostream.fusion.methods import fit_fusion, write_fusion
from twostream.fusion.scores import align, read_scores, write_scores
from twostream.fusion.weights import proven_streams, weight_curve
from twostream.params import Params


def fuse(params: Params, split: str) -> None:
    """Write data/fused/split<n>.npz, models/fusion-<n>.json and the weight sweep metrics/fusion/split<n>.csv."""
    settings = params.fusion
    folder = Path(f"data/scores/split{split}")
    scores = {name: read_scores(folder / f"{name}.npz") for name in settings.streams}
    streams, proven = align(scores), proven_streams(scores)
    fusion = fit_fusion(settings.method, streams, step=settings.step, c=settings.c, seed=params.seed, proven=proven)
    write_scores(Path(f"data/fused/split{split}.npz"), fusion.apply(streams))
    write_fusion(Path(f"models/fusion-{split}.json"), fusion)
    write_table(weight_curve(fusion, streams, step=settings.step), f"metrics/fusion/split{split}.csv")


if __name__ == "__main__":
    run(fuse, "split")
