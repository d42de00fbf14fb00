"""Probe every clip of a data set by decoding it, once per content of its file."""

from __future__ import annotations

import secrets
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import pandas as pd

from twostream import video
from twostream.core.cache import RecordCache, code_digest, key_of
from twostream.core.digests import Digests
from twostream.core.imports import import_closure
from twostream.core.parallel import in_threads, unordered
from twostream.datasets import duplicates, get_dataset
from twostream.datasets.tables import CLIP_COLUMNS, SPAN_COLUMNS, span_of
from twostream.errors import UserError
from twostream.params import Dataset
from twostream.video.probe import Probe, probe

Source = tuple[Path, video.Span | None]  # the video of a clip, and its span; None for all of it

_NAMED_IN_ERRORS = 20
_DECODER = Path(video.__file__).with_name("probe.py")
_PROBED = [*(field.name for field in fields(Probe)), "fingerprint"]


def list_and_probe(dataset: Dataset, videos: Path, annotations: Path, cache: RecordCache, workers: int) -> pd.DataFrame:
    """Return the table of `clips.csv`. A clip that is missing or cannot be read is in it with its reason.

    Args:
        dataset: the parameter section.
        videos: folder of the videos, `<class>/<file>`.
        annotations: folder of the data set's own split files.
        cache, workers: as for :func:`probe_clips`.

    Raises:
        UserError: no clips, fewer than two classes, or more than `dataset.max_unreadable` clips cannot be read.
    """
    clips = get_dataset(dataset.name).list_clips(dataset, videos, annotations)
    if clips["class"].nunique() < 2:
        raise UserError(f"{dataset.source}: at least two classes of clips are needed")
    # The groups of a published data set stay, since published results use its splits.
    clips = probe_clips(clips, videos, cache, workers, merge_copies=dataset.name == "folder")
    _check_readable(clips, dataset)
    return clips


def probe_clips(
    clips: pd.DataFrame, videos: Path, cache: RecordCache, workers: int, merge_copies: bool = False
) -> pd.DataFrame:
    """Decode every clip whose status is `ok` and return the table with :data:`CLIP_COLUMNS`.

    If clips show the same video, the table also has the column of :func:`twostream.datasets.duplicates.with_copies`.

    Args:
        clips: str columns clip_id, path, class, group, status, reason; start and end if clips are spans of videos.
        videos: folder that the paths are relative to.
        cache: what decoding found earlier. A file of the same content is not decoded again, if it could be read.
        workers: processes that decode; 0: one per core.
        merge_copies: whether clips that show the same video share a group.
    """
    present = clips.index[clips["status"] == "ok"]
    sources = _sources(clips, videos)
    digests = _digests(cache)
    keys = _keys(sources, workers, digests)
    digests.save()
    todo = {key: source for key, source in zip(keys, sources, strict=True) if key not in cache}
    found: dict[str, dict[str, Any]] = {}
    for key, probed in unordered(_probe_one, list(todo.items()), workers=workers, what="probe"):
        found[key] = probed
        if probed["readable"]:  # the cause of an unreadable file may pass, such as missing permission
            cache.add(key, probed)
    print(f"probe: {len(keys)} clips, {len(todo)} decoded, {len(keys) - len(todo)} from the cache")
    probed = pd.DataFrame([found.get(key) or cache[key] for key in keys], index=present, columns=_PROBED)
    probed["status"] = probed["readable"].map({True: "ok", False: "unreadable"})
    table = clips.assign(frames=0, fps=0.0, width=0, height=0)
    # Whole columns at once: one assignment per clip took most of the time of this stage.
    for column in ("frames", "fps", "width", "height", "status", "reason"):
        table.loc[present, column] = probed[column]
    usable = probed.assign(key=keys, path=clips["path"][present])[probed["readable"].astype(bool)]
    first = duplicates.first_copies(usable) if len(usable) else usable.index
    columns = CLIP_COLUMNS + [name for name in SPAN_COLUMNS if name in table]
    return duplicates.with_copies(table[columns], pd.Series(first, usable.index), merge_copies)


def count_undecoded(dataset: Dataset, videos: Path, annotations: Path, cache: RecordCache) -> tuple[int, int]:
    """Return how many clips :func:`list_and_probe` would decode, and how many it finds in the cache."""
    clips = get_dataset(dataset.name).list_clips(dataset, videos, annotations)
    keys = _keys(_sources(clips, videos), 0, _digests(cache))
    count = sum(key not in cache for key in keys)
    return count, len(keys) - count


def _sources(clips: pd.DataFrame, videos: Path) -> list[Source]:
    return [(videos / row.path, span_of(row)) for row in clips[clips["status"] == "ok"].itertuples()]


def _digests(cache: RecordCache) -> Digests:
    return Digests(cache.path.parent / "digests", "probe")


def _keys(sources: list[Source], workers: int, digests: Digests) -> list[str]:
    """Return the cache key of each clip: its content and what decodes it. Files are read by several threads."""
    decoder = {"code": code_digest(*import_closure([_DECODER, Path(duplicates.__file__)])), "ffmpeg": av.__version__}

    def digest(path: Path) -> str:
        try:
            return digests.sha256(path)
        except OSError:
            return secrets.token_hex()  # found nowhere: probing the file gives the reason

    paths = list(dict.fromkeys(path for path, _ in sources))
    found = in_threads(digest, paths, workers=digests.threads(workers), what="probe: cached")
    contents = dict(zip(paths, found, strict=True))
    return [
        # FFmpeg lets the ending decide between containers that look alike.
        key_of(sha256=contents[path], ending=path.suffix.lower(), **({"span": span} if span else {}), **decoder)
        for path, span in sources
    ]


def _probe_one(job: tuple[str, Source]) -> tuple[str, dict[str, Any]]:
    key, (path, span) = job
    fingerprint = duplicates.Fingerprint(trusts_header=span is None)
    probed = probe(path, fingerprint.add, span)
    if probed.readable and not fingerprint.is_complete:
        fingerprint = duplicates.Fingerprint(trusts_header=False)
        probe(path, fingerprint.add, span)
    return key, {**vars(probed), "fingerprint": fingerprint.text() if probed.readable else ""}


def _check_readable(clips: pd.DataFrame, dataset: Dataset) -> None:
    bad = clips[clips["status"] == "unreadable"]
    named = "; ".join(f"{row.path!r}: {row.reason}" for row in bad.head(_NAMED_IN_ERRORS).itertuples())
    more = f"; and {len(bad) - _NAMED_IN_ERRORS} more" if len(bad) > _NAMED_IN_ERRORS else ""
    if len(bad) > dataset.max_unreadable:
        raise UserError(
            f"{len(bad)} clips cannot be read, dataset.max_unreadable allows {dataset.max_unreadable}: {named}{more}"
        )
    if len(bad):
        print(f"{len(bad)} clips cannot be read and are left out: {named}{more}")
    if not (clips["status"] == "ok").any():
        raise UserError(f"{dataset.source}: none of its {len(clips)} clips can be read: {named}{more}")
