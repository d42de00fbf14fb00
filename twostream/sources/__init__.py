"""Turn `dataset.source` - a folder, an archive, or a list of mirrors - into folders of plain files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from twostream.errors import UserError
from twostream.params import Section
from twostream.sources.archives import is_archive, unpack
from twostream.sources.http import download, download_from_hub
from twostream.sources.walk import locked, remove_tree, walk_files

Found = TypeVar("Found")
Accept = Callable[[list[Path]], Found]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]


class HubFile(Section):
    name: str = Field(min_length=1)
    size: int | None = Field(default=None, ge=0)
    sha256: Sha256 | None = None


class Hub(Section):
    """Files of a Hugging Face data set at one commit."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{7,40}$")  # a commit: a branch or tag can change what it holds
    files: list[HubFile] = Field(min_length=1)


class Source(Section):
    """One place to take files from: exactly one of `path`, `huggingface` and `url`."""

    path: str | None = Field(default=None, min_length=1)
    huggingface: Hub | None = None
    url: str | None = Field(default=None, pattern=r"^https?://")
    sha256: Sha256 | None = None
    size: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        if sum(kind is not None for kind in (self.path, self.huggingface, self.url)) != 1:
            raise ValueError("a source has exactly one of path, huggingface and url")
        if (self.url is None) != (self.sha256 is None):
            raise ValueError("a url needs its sha256, and only a url has one")
        if self.size is not None and self.url is None:
            raise ValueError("size goes with a url, or with a file of huggingface")
        return self

    def __str__(self) -> str:
        if self.huggingface:
            return f"Hugging Face data set {self.huggingface.repo}"
        return self.path or self.url or ""


class MirrorList(Section):
    """Where the videos, and where the split files, can be had; each in the order tried.

    Without `annotations`, the split files are looked for among what the videos came with.
    """

    videos: list[Source] = Field(min_length=1)
    annotations: list[Source] = []


def read_mirrors(path: str | Path) -> MirrorList:
    """Read and check a mirror list. Raises UserError, one line that names the file and the key."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return MirrorList.model_validate(data)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise UserError(f"{path}: {key}: {problem['msg'].removeprefix('Value error, ')}") from None


def is_mirror_list(source: str) -> bool:
    """Whether `dataset.source` names a list of mirrors rather than the files themselves."""
    return source.lower().endswith((".yaml", ".yml"))


@contextmanager
def workshop(scratch: Path) -> Iterator[Path]:
    """The folder for downloads and unpacking, for one process at a time; removed when the block ends well."""
    with locked(scratch.with_name(scratch.name + ".lock")):
        scratch.mkdir(parents=True, exist_ok=True)
        yield scratch
        remove_tree(scratch)


def obtain(
    source: str,
    scratch: Path,
    accept: Accept[Found],
    need: Literal["videos", "annotations"] = "videos",
    archives_inside: bool = True,
) -> Found:
    """Make the files of `source` available and return what `accept` makes of them.

    Args:
        source: a folder, an archive (unpacked with all inside it), or a mirror list: its `need` list is tried in order,
            and each source that fails, or that `accept` refuses, is reported in a printed line.
        scratch: downloads and unpacked archives live here; what is there from a killed run is gone on with.
        accept: takes the folders that hold the files, and raises UserError if they do not serve.
        archives_inside: whether archives that lie in a folder are unpacked too, when the folder does not serve without.

    Raises:
        UserError: one line: the source is not there, or each of the mirrors with why it failed and where to put a copy.
    """
    if not is_mirror_list(source):
        return _use_local(Path(source), scratch, accept, archives_inside)
    mirrors = read_mirrors(source)
    tried, local = [], []
    for mirror in getattr(mirrors, need):
        try:
            if mirror.path:
                local.append(mirror.path)
                return _use_local(Path(mirror.path), scratch, accept, archives_inside)
            return _use_files(_fetch(mirror, scratch), scratch, accept)
        except UserError as error:
            print(f"{need}: {mirror} does not serve: {error}")
            tried.append(f"{mirror}: {error}")
    place = f"at {local[0]}" if local else f"anywhere and name it as `path:` in {source}"
    raise UserError(
        f"{source}: no source of the {need} serves; put a copy {place}, or set dataset.source to one. Tried: "
        f"{' | '.join(tried)}"
    )


def _use_local(path: Path, scratch: Path, accept: Accept[Found], archives_inside: bool) -> Found:
    shown = repr(os.fspath(path))
    if not path.exists():
        raise UserError(f"{shown} is not there; put the data there, or set dataset.source to where it is")
    if path.is_file():
        return _use_files([path], scratch, accept)
    try:
        return accept([path])
    except UserError:
        archives = [path / name for name in walk_files(path) if is_archive(name)] if archives_inside else []
        if not archives:
            raise
    return accept([path, *(_unpacked(archive, scratch) for archive in archives)])


def _use_files(files: list[Path], scratch: Path, accept: Accept[Found]) -> Found:
    return accept([_unpacked(file, scratch) for file in files])


def _fetch(mirror: Source, scratch: Path) -> list[Path]:
    if mirror.url:
        target = scratch / "downloads" / _key(mirror.sha256) / (os.path.basename(mirror.url.split("?")[0]) or "file")
        download(mirror.url, target, mirror.sha256, mirror.size)
        return [target]
    hub = mirror.huggingface
    folder = scratch / "downloads" / _key(hub.repo, hub.revision)
    return [download_from_hub(hub.repo, hub.revision, file.name, folder, file.size, file.sha256) for file in hub.files]


def _unpacked(archive: Path, scratch: Path) -> Path:
    status = archive.stat()
    # Another file under the same name is another archive.
    target = scratch / "unpacked" / _key(os.path.abspath(archive), status.st_size, status.st_mtime_ns)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        unpack(archive, target)
    return target


def _key(*parts: object) -> str:
    return sha256(os.fsencode("\0".join(str(part) for part in parts))).hexdigest()[:16]
