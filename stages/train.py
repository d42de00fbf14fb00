"""Stage: train one stream on one split."""

from pathlib import Path

from stages.common import modality_of, open_cache, run
from twostream.datasets.tables import classes_of, read_clips, read_split
from twostream.params import Params
from twostream.streams.task import Task
from twostream.streams.training import train_stream
from twostream.views.examples import list_examples


def train(params: Params, stream: str, split: str) -> None:
    """Write models/<stream>-<split>/ and the training curves in metrics/train/<stream>-<split>/."""
    modality = modality_of(params, stream)
    clips, assignment = read_clips("data/clips.csv"), read_split(f"data/splits/{split}.csv")
    folder = Path("data") / modality
    task = Task(
        name=stream,
        modality=modality,
        stream=params.streams[stream],
        classes=classes_of(clips),
        train=list_examples(clips, assignment, folder, "train"),
        val=list_examples(clips, assignment, folder, "val"),
        seed=params.seed,
        precision=params.train.precision,
        compile=params.train.compile,
    )
    run_name = f"{stream}-{split}"
    train_stream(task, open_cache(), params.runtime, Path("models") / run_name, Path("metrics/train") / run_name)


if __name__ == "__main__":
    run(train, "stream", "split")
