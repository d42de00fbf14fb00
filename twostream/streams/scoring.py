"""Score clips with a trained stream: the mean of its logits over views (segments x crops x flips)."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from twostream.clipstore import ClipReader
from twostream.core.cache import RecordCache, code_digest, key_of
from twostream.core.device import device_of
from twostream.core.files import md5_of
from twostream.core.imports import import_closure
from twostream.core.parallel import progress
from twostream.networks.names import network_files
from twostream.params import Runtime, Score
from twostream.streams.config import StreamConfig, read_config
from twostream.views.examples import Example

_KEPT_DAYS = 60  # for which the scores of a model that is not scored any more stay


def score_clips(
    folder: Path, examples: list[Example], score: Score, runtime: Runtime, cache: Path
) -> tuple[list[str], np.ndarray]:
    """Score clips with the stream of a model folder; what was scored before comes from the cache.

    Args:
        cache: folder of the scores of earlier runs.

    Returns:
        The class names, and float32 [clips, classes]: for each clip the mean of the logits over its views.

    Raises:
        UserError: as :class:`TrainedStream`.
    """
    config = read_config(folder)
    known = _known(folder, config, score, runtime, cache)
    contents = [_content(example) for example in examples]
    todo = [(example, content) for example, content in zip(examples, contents, strict=True) if content not in known]
    if todo:
        from twostream.streams.trained import TrainedStream

        stream = TrainedStream(folder, runtime.accelerator)
        with progress(len(todo), f"score {config.stream}", "clip") as bar:
            scored = stream.score([example for example, _ in todo], score, runtime.workers)
            for (_, content), logits in zip(todo, scored, strict=True):
                known.add(content, logits.tobytes().hex())
                bar.update()
    print(f"{config.stream}: {len(examples)} clips, {len(todo)} scored, {len(examples) - len(todo)} from the cache")
    _prune(cache, known.path)
    rows = [np.frombuffer(bytes.fromhex(known[content]), np.float32) for content in contents]
    return config.classes, np.stack(rows)


def count_unscored(
    folder: Path, examples: list[Example], score: Score, runtime: Runtime, cache: Path
) -> tuple[int, int]:
    """Return how many clips :func:`score_clips` would score, and how many it finds in the cache."""
    known = _known(folder, read_config(folder), score, runtime, cache)
    count = sum(_content(example) not in known for example in examples)
    return count, len(examples) - count


def _known(folder: Path, config: StreamConfig, score: Score, runtime: Runtime, cache: Path) -> RecordCache:
    """Return the scores of this model by this protocol that earlier runs computed."""
    files = [Path(__file__).with_name("trained.py"), *network_files(config.model, "none")]
    key = key_of(
        model=md5_of(folder / "model.pt") if (folder / "model.pt").is_file() else None,
        config=config.model_dump(exclude={"key", "extraction"}),
        score=score.model_dump(),
        device=device_of(runtime.accelerator),
        torch=version("torch"),
        code=code_digest(*import_closure(files)),
    )
    return RecordCache(cache / f"{key}.jsonl")


def _content(example: Example) -> str:
    with ClipReader(example.path) as clip:
        return clip.digest()


def _prune(cache: Path, used: Path) -> None:
    """Remove the scores of models that have not been scored for long."""
    used.touch()
    for file in cache.glob("*.jsonl"):
        if time.time() - file.stat().st_mtime > 86400 * _KEPT_DAYS:
            file.unlink(missing_ok=True)
