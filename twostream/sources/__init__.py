"""Turn `dataset.source` (a folder, an archive or a list of mirrors) into folders of plain files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from twostream.core.files import locked
from twostream.core.outputs import overlapping_output
from twostream.errors import UserError, reason, validation_reason
from twostream.params import FilePath, Section
from twostream.sources.archives import UnusableArchive, is_archive, unpack
from twostream.sources.huggingface import download
from twostream.sources.walk import walk_files

Found = TypeVar("Found")
Accept = Callable[[list[Path]], Found]


class HubFile(Section):
    name: str = Field(min_length=1)
    size: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")


class Hub(Section):
    """Files of a Hugging Face data set at one commit."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{7,40}$")  # a commit: the content of a branch or tag can change
    files: list[HubFile] = Field(min_length=1)


class Source(Section):
    """One place to take files from: either `path` or `huggingface`."""

    path: FilePath | None = Field(default=None, min_length=1)
    huggingface: Hub | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        if (self.path is None) == (self.huggingface is None):
            raise ValueError("a source has exactly one of path and huggingface")
        return self

    def __str__(self) -> str:
        return self.path or (f"Hugging Face data set {self.huggingface.repo}" if self.huggingface else "")


class MirrorList(Section):
    """The sources of the videos and of the split files, in the order in which they are tried.

    Without `annotations`, the split files are searched among the files of the videos' source.
    """

    videos: list[Source] = Field(min_length=1)
    annotations: list[Source] = []


def read_mirrors(path: str | Path) -> MirrorList:
    """Read and check a mirror list. Raises UserError: one line that names the file and the key."""
    try:
        return MirrorList.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: {validation_reason(error)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise UserError(f"{path}: not a list of mirrors (nested too deep)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None


def is_mirror_list(source: str) -> bool:
    """Return whether `dataset.source` names a list of mirrors, not the files themselves."""
    return source.lower().endswith((".yaml", ".yml"))


def check_source(source: str) -> None:
    """Raise a UserError if `dataset.source`, or a path in its list of mirrors, overlaps with what stages write."""
    paths = [source]
    if is_mirror_list(source) and os.path.exists(source):
        paths = [mirror.path or "" for mirror in (*read_mirrors(source).videos, *read_mirrors(source).annotations)]
    for path in paths:
        if problem := overlapping_output(path):
            raise UserError(problem)


@contextmanager
def scratch_folder(scratch: Path, source: str) -> Iterator[Path]:
    """Yield a folder for the downloads and unpacked archives of `source`, locked for one process.

    After an error everything stays, so that the next run goes on. After success the downloads stay, so that the next
    run fetches nothing; unpacked archives are deleted, and so are the downloads of other sources if this one has any.

    Args:
        scratch: a folder that holds such folders alone.
    """
    folder = scratch / _key(source)
    with locked(folder.with_suffix(".lock")):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder / "unpacked", ignore_errors=True)
        if not (folder / "downloads").exists():
            folder.rmdir()
            return
        for other in scratch.iterdir():
            if other.is_dir() and other != folder:
                # Another process may be fetching into it.
                with suppress(BlockingIOError), locked(other.with_suffix(".lock"), wait=False):
                    shutil.rmtree(other)


def obtain(
    source: str,
    scratch: Path,
    accept: Accept[Found],
    need: Literal["videos", "annotations"] = "videos",
    archives_inside: bool = True,
) -> Found:
    """Make the files of `source` available and return what `accept` makes of them.

    Args:
        source: a folder, an archive (unpacked with all archives inside it), or a mirror list, whose list `need` is
            tried in order. A line is printed for each source that fails or that `accept` refuses.
        scratch: folder for downloads and unpacked archives; those that an earlier run left are used.
        accept: takes the folders that hold the files; raises UserError if what it needs is not in them.
        archives_inside: whether archives in a folder are unpacked too, if `accept` refuses the folder without them.

    Raises:
        UserError: one line: the source does not exist; or why each mirror failed and where to put a copy.
    """
    if not is_mirror_list(source):
        return _use_local(Path(source), scratch, accept, archives_inside)
    mirrors: list[Source] = getattr(read_mirrors(source), need)
    failures = []
    for mirror in mirrors:
        try:
            if mirror.huggingface:
                return _use_hub(mirror.huggingface, scratch, accept)
            # In an experiment's temporary workspace, DVC_ROOT is the project itself, which has what git does not track.
            path = Path(os.environ.get("DVC_ROOT", ""), mirror.path or "")
            return _use_local(path, scratch, accept, archives_inside)
        except UserError as error:
            print(f"{need}: {mirror} cannot be used: {error}")
            failures.append(f"{mirror}: {error}")
    local = next((mirror.path for mirror in mirrors if mirror.path), None)
    place = f"at {local}" if local else f"anywhere and name it as `path:` in {source}"
    raise UserError(
        f"{source}: no source of the {need} can be used; put a copy {place}, or set dataset.source to one. Tried: "
        f"{' | '.join(failures)}"
    )


def _use_local(path: Path, scratch: Path, accept: Accept[Found], archives_inside: bool) -> Found:
    if not path.exists():
        raise UserError(f"{os.fspath(path)!r} does not exist; put the data there, or correct dataset.source")
    if path.is_file():
        return accept([_unpacked(path, scratch)])
    try:
        return accept([path])
    except UserError:
        archives = [path / name for name in walk_files(path) if is_archive(name)] if archives_inside else []
        if not archives:
            raise
    return accept([path, *(_unpacked(archive, scratch) for archive in archives)])


def _use_hub(hub: Hub, scratch: Path, accept: Accept[Found]) -> Found:
    folder = scratch / "downloads" / _key(hub.repo, hub.revision)
    files = [download(hub.repo, hub.revision, file.name, folder, file.size, file.sha256) for file in hub.files]
    return accept([_unpacked_download(file, scratch) for file in files])


def _unpacked_download(file: Path, scratch: Path) -> Path:
    try:
        return _unpacked(file, scratch)
    except UnusableArchive:
        file.unlink()  # or every later run would find it here, and fetch nothing
        raise


def _unpacked(archive: Path, scratch: Path) -> Path:
    status = archive.stat()
    # Size and time of change tell a new archive of the same name from the old one.
    target = scratch / "unpacked" / _key(os.path.abspath(archive), status.st_size, status.st_mtime_ns)
    if not target.exists():
        unpack(archive, target)
    return target


def _key(*parts: object) -> str:
    return sha256(os.fsencode("\0".join(map(str, parts)))).hexdigest()[:16]
