"""List what has changed since the last `dvc repro`, and what the next one will compute, without running anything."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib
import io
import json
import logging
import os
import shlex
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from twostream.core.cache import without_words
from twostream.errors import UserError
from twostream.params import load_params
from twostream.profiles import differences

if TYPE_CHECKING:
    from dvc.dependency.base import Dependency
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

_WORDS = "only comments, docstrings, annotations or messages"
_OUTPUTS = {"deleted": "is missing", "modified": "was edited", "not in cache": "is not in DVC's cache"}
_CHEAP = {
    "download": "brings the videos again; files that were fetched before are kept",
    "": "seconds",
}


class _Pending(NamedTuple):
    """A stage that will run, and the lines that say what has changed."""

    stage: PipelineStage
    changes: list[str]
    cost: Counter[str] | str


def why(target: str | None) -> str:
    """Return what `dvc repro TARGET` would run (None: the whole pipeline), as text.

    One block per stage: what it will compute, then a line for each parameter, file or part of the code that has
    changed. Stages that run only if the outputs of one of these change are listed at the end.

    Raises:
        UserError: there is no such stage, or no DVC project here.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        repo = Repo()
        graph = repo.index.graph
        pending, later = [], []
        above: dict[Any, list[str]] = {}  # for stages whose outputs may change: the stages that run for sure before
        for stage in plan_repro(graph, _stages(list(graph), target)):
            first = list(dict.fromkeys(name for other in graph.successors(stage) for name in above.get(other, [])))
            changes = list(_changes(stage))
            if changes:
                pending.append(_Pending(stage, changes, _cost(repo, stage, first)))
                if first or not all(change.endswith(_WORDS) for change in changes):
                    above[stage] = [*first, stage.addressing]
            elif first:
                later.append(stage.addressing)
                above[stage] = first
    except DvcException as error:
        raise UserError(f"{error}") from None
    return _text(pending, later)


def _stages(stages: list[Any], target: str | None) -> list[Any] | None:
    if target is None:
        return None
    families = {_family(stage) for stage in stages}
    names = {stage.addressing for stage in stages} | families
    if target not in names:
        close = difflib.get_close_matches(target, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"dvc.yaml has {', '.join(sorted(families))}"
        raise UserError(f"{target!r} is not a stage; {hint}")
    return [stage for stage in stages if target in (stage.addressing, _family(stage))]


def _family(stage: PipelineStage) -> str:
    """Return the name of a stage in dvc.yaml: `train_rgb` of `train_rgb@spatial-1`."""
    return stage.addressing.partition("@")[0]


def _changes(stage: PipelineStage) -> Iterator[str]:
    """Yield a line per thing that DVC finds changed."""
    from dvc.dependency import ParamsDependency

    if not any(out.hash_info for out in stage.outs):
        yield "has not run before"
        return
    if stage.changed_stage():
        yield "the command or the list of outputs in dvc.yaml"
    for dependency in stage.deps:
        status = dependency.status()
        if status and isinstance(dependency, ParamsDependency):
            yield from _changed_parameters(dependency, status)
        elif status:
            yield from _changed_files(dependency, *status.values())
    for out in stage.outs:
        yield from (f"{path}: {_OUTPUTS.get(word, word)}" for path, word in out.status().items())


def _changed_parameters(dependency: Any, status: dict[str, Any]) -> Iterator[str]:
    old, new = dependency.hash_info.value or {}, dependency.read_params()
    for changed in status.values():
        for name in changed:
            for key, before, after in differences(old.get(name), new.get(name), name):
                yield f"{key}: {json.dumps(before)} -> {json.dumps(after)}"


def _changed_files(dependency: Dependency, word: str) -> Iterator[str]:
    """Yield a line per file that differs from the version that ran, if git has that version; else one in all."""
    path = dependency.def_path
    if not dependency.hash_info:
        yield f"{path}: a new dependency in dvc.yaml"
        return
    if word != "modified" or not path.startswith(("twostream/", "stages/")):
        yield f"{path}: {'is missing' if word == 'deleted' else word}"
        return
    old = _version_that_ran(path, dependency.hash_info.value)
    if old is None:
        yield f"{path}: changed; git does not have the version that ran"
        return
    new = {file.as_posix(): file.read_bytes() for file in _files(Path(path))}
    for file in sorted({*old, *new}):
        if file not in new:
            yield f"{file}: removed"
        elif file not in old:
            yield f"{file}: new"
        elif old[file] != new[file]:
            yield f"{file}: {_WORDS if _same_code(file, old[file], new[file]) else 'changed'}"


@functools.cache
def _version_that_ran(path: str, digest: str) -> dict[str, bytes] | None:
    """Return the files at a path in the last commit, or in that of dvc.lock, if DVC's digest of them is this."""
    for revision in ("HEAD", _git("rev-list", "-1", "HEAD", "--", "dvc.lock").decode().strip()):
        packed = _git("archive", "--format=tar", revision, "--", path) if revision else b""
        if not packed:
            continue
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            members = [member for member in archive if member.isfile()]
            files = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
        if _digest(path, files) == digest:
            return files
    return None


def _digest(path: str, files: dict[str, bytes]) -> str:
    """Return DVC's digest of a file, or of a folder with these files."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    digests = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}
    if path in digests:
        return digests[path]
    tree = Tree()
    for name, digest in digests.items():
        tree.add(PurePosixPath(name).relative_to(path).parts, None, HashInfo("md5", digest))
    tree.digest()
    return tree.hash_info.value or ""


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        if not folder.endswith("__pycache__"):
            yield from (Path(folder, name) for name in names)


def _same_code(file: str, old: bytes, new: bytes) -> bool:
    with contextlib.suppress(ValueError, SyntaxError):
        return file.endswith(".py") and without_words(old.decode()) == without_words(new.decode())
    return False


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def _cost(repo: Repo, stage: PipelineStage, first: list[str]) -> Counter[str] | str:
    """Return what a stage will compute: counts, or words where there is nothing to count or stages run `first`."""
    if first:
        names = first if len(first) < 5 else [*first[:3], f"{len(first) - 3} more"]
        return f"known when {', '.join(names)} {'have' if names[1:] else 'has'} run"
    if _run_cache_has(repo, stage):
        return "nothing, DVC has the outputs of an earlier run"
    _, _, module, *options = shlex.split(stage.cmd)  # python -m stages.train --stream spatial --split 1
    cost = getattr(importlib.import_module(module), "cost", None)
    if cost is None:
        return _CHEAP.get(stage.addressing, _CHEAP[""])
    names = [option.removeprefix("--") for option in options[::2]]
    try:
        # Without what is printed on the way: progress bars, and how clips are grouped.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return Counter(cost(load_params(), **dict(zip(names, options[1::2], strict=True))))
    except (UserError, OSError) as error:
        return f"unknown ({error})"


def _run_cache_has(repo: Repo, stage: PipelineStage) -> bool:
    """Return whether DVC would bring back the outputs of an earlier run instead of running the stage."""
    from dvc.exceptions import DvcException
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    for out in stage.outs:
        out.hash_info = HashInfo()  # or it would look no further than these
    try:
        stage.save_deps()
        repo.stage_cache.restore(stage, dry=True)
    except (DvcException, RunCacheNotFoundError, OSError):
        return False
    return True


def _text(pending: list[_Pending], later: list[str]) -> str:
    """Return a block per group of stages of one kind that the same changes concern; no change is listed twice."""
    groups: dict[tuple[str, ...], list[_Pending]] = {}
    for one in pending:
        words = one.cost if isinstance(one.cost, str) else ""
        groups.setdefault((_family(one.stage), words, *one.changes), []).append(one)
    lines: list[str] = []
    listed: set[str] = set()
    for (_, words, *changes), members in groups.items():
        counts: Counter[str] = sum((one.cost for one in members if isinstance(one.cost, Counter)), Counter())
        lines.append(f"{', '.join(one.stage.addressing for one in members)}: {words or _count_text(counts)}")
        again = listed.intersection(changes)
        lines += [f"  {change}" for change in changes if change not in again]
        lines += [f"  {len(again)} of the changes above"] if again else []
        listed.update(changes)
    if later:
        lines.append(f"then, if their inputs change: {', '.join(later)}")
    return "\n".join(lines) or "nothing has changed: nothing would run"


def _count_text(counts: Counter[str]) -> str:
    from stages.common import FROM_CACHE

    todo = {what: count for what, count in counts.items() if count and what != FROM_CACHE}
    if not todo:
        return f"all {FROM_CACHE}"
    texts = [f"{count} {what if count > 1 else what.replace('s ', ' ', 1)}" for what, count in todo.items()]
    return ", ".join([*texts, *([f"{counts[FROM_CACHE]} {FROM_CACHE}"] if counts[FROM_CACHE] else [])])
