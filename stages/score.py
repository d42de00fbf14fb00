"""Stage: score the validation and test clips of one split with one trained stream."""

from pathlib import Path

import numpy as np

from stages.common import FROM_CACHE, find_cache, modality_of, open_cache, run
from twostream.datasets.tables import read_clips, read_split
from twostream.fusion.scores import SUBSETS, Scores, write_scores
from twostream.params import Params
from twostream.streams.scoring import count_unscored, score_clips
from twostream.views.examples import Example, list_examples


def score(params: Params, stream: str, split: str) -> None:
    """Write data/scores/split<n>/<stream>.npz: for every validation and test clip its logits, the mean over views.

    A head also has logits for its training clips, out of fold, so that fusion can be fitted on all of them.
    """
    examples = _examples(params, stream, split)
    model = Path(f"models/{stream}-{split}")
    cache = open_cache().root
    classes, logits = score_clips(model, [example for _, example in examples], params.score, params.runtime, cache)
    scores = Scores(
        clip_id=np.array([example.clip_id for _, example in examples]),
        label=np.array([example.label for _, example in examples], np.int64),
        classes=np.array(classes),
        subset=np.array([subset for subset, _ in examples]),
        logits=logits,
    )
    write_scores(Path(f"data/scores/split{split}/{stream}.npz"), scores)


def cost(params: Params, stream: str, split: str) -> dict[str, int]:
    """Return what `score` would do: numbers of clips."""
    examples = [example for _, example in _examples(params, stream, split)]
    cache = find_cache().root
    todo, cached = count_unscored(Path(f"models/{stream}-{split}"), examples, params.score, params.runtime, cache)
    return {"clips to score": todo, FROM_CACHE: cached}


def _examples(params: Params, stream: str, split: str) -> list[tuple[str, Example]]:
    """Return the clips to score, each with its subset."""
    clips, assignment = read_clips("data/clips.csv"), read_split(f"data/splits/{split}.csv")
    folder = Path("data") / modality_of(params, stream)
    subsets = SUBSETS if params.streams[stream].tune == "head" else ("val", "test")
    return [(subset, example) for subset in subsets for example in list_examples(clips, assignment, folder, subset)]


if __name__ == "__main__":
    run(score, "stream", "split")
