"""Stage: train one stream on one split."""

from contextlib import nullcontext
from pathlib import Path

from stages.common import FROM_CACHE, find_cache, modality_of, open_cache, run
from twostream.core.outputs import replaced
from twostream.datasets.tables import classes_of, read_clips, read_split
from twostream.params import Params
from twostream.streams.task import Task, is_first_process
from twostream.streams.training import count_missing_features, finished_epochs, join_training, train_stream
from twostream.views.examples import list_examples


def train(params: Params, stream: str, split: str, into: str = "") -> None:
    """Write models/<stream>-<split>/ and the training curves in metrics/train/<stream>-<split>/."""
    model, curves = (Path(into, folder, f"{stream}-{split}") for folder in ("models", "metrics/train"))
    task, cache = _task(params, stream, split), open_cache()
    if not is_first_process():
        join_training(task, cache, params.runtime, model)
        return
    with nullcontext() if into else replaced((model, curves), cache):
        train_stream(task, cache, params.runtime, model, curves)


def cost(params: Params, stream: str, split: str) -> dict[str, int]:
    """Return what `train` would do: streams by the epoch from which they train."""
    model = Path(f"models/{stream}-{split}")
    given = _task(params, stream, split), find_cache(), params.runtime, model
    finished = finished_epochs(*given)
    if finished is None:
        return {FROM_CACHE: 1}
    if params.streams[stream].tune == "head":
        return {"heads to fit": 1, "clips that their networks must see": count_missing_features(*given[:3])}
    return {f"streams to train from epoch {finished + 1} of {params.streams[stream].epochs}": 1}


def _task(params: Params, stream: str, split: str) -> Task:
    modality = modality_of(params, stream)
    clips, assignment = read_clips("data/clips.csv"), read_split(f"data/splits/{split}.csv")
    folder = Path("data") / modality
    train, val = (list_examples(clips, assignment, folder, subset) for subset in ("train", "val"))
    groups = clips.set_index("clip_id")["group"]
    return Task(
        name=stream,
        modality=modality,
        stream=params.streams[stream],
        classes=classes_of(clips),
        train=train,
        val=val,
        groups=tuple(groups[example.clip_id] for example in [*train, *val]),
        seed=params.seed,
        precision=params.train.precision,
        compile=params.train.compile,
    )


if __name__ == "__main__":
    run(train, "stream", "split", into="write into this folder, not into the project")
