"""Stage: score the validation and test clips of one split with one trained stream."""

from pathlib import Path

import numpy as np

from stages.common import modality_of, open_cache, run
from twostream.datasets.tables import read_clips, read_split
from twostream.fusion.scores import Scores, write_scores
from twostream.params import Params
from twostream.streams.scoring import score_clips
from twostream.views.examples import list_examples


def score(params: Params, stream: str, split: str) -> None:
    """Write data/scores/split<n>/<stream>.npz: for every validation and test clip its logits, the mean over views."""
    clips, assignment = read_clips("data/clips.csv"), read_split(f"data/splits/{split}.csv")
    folder = Path("data") / modality_of(params, stream)
    examples = [
        (subset, example) for subset in ("val", "test") for example in list_examples(clips, assignment, folder, subset)
    ]
    model = Path(f"models/{stream}-{split}")
    cache = open_cache().root / "scores"
    classes, logits = score_clips(model, [example for _, example in examples], params.score, params.runtime, cache)
    scores = Scores(
        clip_id=np.array([example.clip_id for _, example in examples]),
        label=np.array([example.label for _, example in examples], np.int64),
        classes=np.array(classes),
        subset=np.array([subset for subset, _ in examples]),
        logits=logits,
    )
    write_scores(Path(f"data/scores/split{split}/{stream}.npz"), scores)


if __name__ == "__main__":
    run(score, "stream", "split")
