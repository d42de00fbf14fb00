"""Score clips with a trained stream: the mean of its logits over views (segments x crops x flips)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twostream.core import cluster
from twostream.core.cache import code_digest, key_of
from twostream.core.device import device_of
from twostream.core.files import md5_of
from twostream.core.imports import import_closure
from twostream.errors import UserError, reason
from twostream.networks.names import network_files
from twostream.params import Runtime, Score
from twostream.streams.config import HEAD_FILE, OUT_OF_FOLD_FILE, StreamConfig, read_config
from twostream.streams.features import cached_features, features_file
from twostream.streams.rows import content_of, count_missing_rows, rows_of_clips
from twostream.views.examples import Example

if TYPE_CHECKING:
    from twostream.streams.trained import TrainedStream


def score_clips(
    folder: Path, examples: list[Example], score: Score, runtime: Runtime, cache: Path
) -> tuple[list[str], np.ndarray]:
    """Score clips with the stream of a model folder; what was computed before comes from the cache.

    Training clips of a head get their out-of-fold logits: those of a classifier that has not seen their group.

    Args:
        score: the protocol; a head has its own, see :meth:`StreamConfig.protocol`.
        cache: folder of the file cache.

    Returns:
        The class names, and float32 [clips, classes]: for each clip the mean of the logits over its views.

    Raises:
        UserError: as :class:`TrainedStream`.
    """
    config = read_config(folder)

    def compute(todo: list[Example]) -> Iterable[tuple[int, np.ndarray]]:
        from twostream.streams.trained import TrainedStream

        if cluster.scheduler() and device_of(runtime.accelerator) == "cpu":
            model = folder, _identity(folder)
            work = partial(_row, model, None if config.features else score)
            return cluster.spread(work, list(enumerate(todo)), f"score {config.stream}")
        stream, workers = TrainedStream(folder, runtime.accelerator), runtime.workers
        return enumerate(stream.features(todo, workers) if config.features else stream.score(todo, score, workers))

    if config.features:
        features = cached_features(cache, config.stream, config.features, examples, compute)
        return config.classes, _head_logits(folder, examples, features)
    records = _records(folder, config, score, runtime, cache)
    logits, scored = rows_of_clips(records, examples, compute, f"score {config.stream}")
    print(f"{config.stream}: {len(examples)} clips, {scored} scored, {len(examples) - scored} from the cache")
    return config.classes, logits


def _row(model: tuple[Path, str | None], score: Score | None, item: tuple[int, Example]) -> tuple[int, np.ndarray]:
    """Return a clip's place and its scores or, without a protocol, its features; runs on a worker of a cluster."""
    stream, (number, example) = _trained(*model), item
    (row,) = stream.score([example], score, None) if score else stream.features([example], None)
    return number, row


@lru_cache(1)
def _trained(folder: Path, _identity: str | None) -> TrainedStream:
    from twostream.streams.trained import TrainedStream

    return TrainedStream(folder, "cpu")


def _identity(folder: Path) -> str | None:
    """Return the digest of a model's weights; None if there are none."""
    return md5_of(folder / "model.pt") if (folder / "model.pt").is_file() else None


def count_unscored(
    folder: Path, examples: list[Example], score: Score, runtime: Runtime, cache: Path
) -> tuple[int, int]:
    """Return how many clips :func:`score_clips` would score, and how many it finds in the cache."""
    config = read_config(folder)
    records = features_file(cache, config.features) if config.features else None
    count = count_missing_rows(records or _records(folder, config, score, runtime, cache), examples)
    return count, len(examples) - count


def _head_logits(folder: Path, examples: list[Example], features: np.ndarray) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from twostream.streams.head import apply_head

    try:
        head = load_file(folder / HEAD_FILE)
        logits = apply_head(head["weight"], head["bias"], features)
        out_of_fold = json.loads((folder / OUT_OF_FOLD_FILE).read_text(encoding="ascii"))
        for row, example in enumerate(examples):
            logits[row] = out_of_fold.get(content_of(example), logits[row])
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        problem = reason(error)
    else:
        return logits
    raise UserError(
        f"{folder}: its head cannot be used ({problem}); delete the folder and train the stream with `dvc repro`"
    )


def _records(folder: Path, config: StreamConfig, score: Score, runtime: Runtime, cache: Path) -> Path:
    """Return the file of the scores of this model by this protocol."""
    files = [Path(__file__).with_name("trained.py"), *network_files(config.model, "none")]
    key = key_of(
        model=_identity(folder),
        config=config.model_dump(exclude={"key", "extraction"}, exclude_unset=True),
        score=score.model_dump(),
        device=device_of(runtime.accelerator),
        torch=version("torch"),
        code=code_digest(*import_closure(files)),
    )
    return cache / "scores" / f"{key}.jsonl"
