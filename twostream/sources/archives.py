"""Unpack archives from untrusted sources: ZIP, tar, RAR and 7z, also nested; never write outside the target folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from tqdm import tqdm

from twostream.errors import UserError, is_of_the_disk, reason
from twostream.sources.walk import new_folder, walk_files

ENDINGS = (".zip", ".rar", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
UNPACKER = "bsdtar"  # reads RAR and 7z

MAX_DEPTH = 8
MAX_MEMBERS = 1_000_000
# Videos hardly shrink in an archive; what unpacks to a hundredfold is a bomb, not a data set of videos.
MAX_EXPANSION = 100
FREE_EXPANSION_BYTES = 2**30
MAX_DISK_FRACTION = 0.9

_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# RuntimeError: zipfile's for an encrypted member and, as NotImplementedError, for an unknown compression.
_ERRORS = (OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


class UnusableArchive(UserError):
    """An archive that is damaged or that is refused for its content: another copy may be sound."""


def is_archive(path: str | Path) -> bool:
    """Return whether the name has the ending of an archive."""
    return os.path.basename(path).lower().endswith(ENDINGS)


def unpack(archive: Path, target: Path) -> None:
    """Unpack `archive`, and every archive inside it, into the new folder `target`.

    The content decides the format, not the name. An archive inside becomes a folder with its name in its place; if it
    holds one folder of the same name, the two become one. `target` appears when everything is unpacked: an interrupted
    run starts again.

    Raises:
        UserError: one line that names the archive: not an archive, damaged or encrypted; a member outside the folder, a
            link, a device or a sparse file; more than a hundred times its size, 90 % of the free disk, a million files
            or eight levels; a RAR or 7z without the program that reads it.
    """
    with (
        new_folder(target) as part,
        tqdm(desc=f"unpacking {archive.name!r}", unit="B", unit_scale=True, delay=1) as bar,
    ):
        _unpack_nested(archive, part, 1, _Budget(archive, part, bar))


class _Budget:
    """How many files and bytes may still be written, for an archive and all archives inside it."""

    def __init__(self, archive: Path, folder: Path, bar: tqdm) -> None:
        self.expanded = FREE_EXPANSION_BYTES + MAX_EXPANSION * archive.stat().st_size
        self.disk = int(MAX_DISK_FRACTION * shutil.disk_usage(folder).free)
        self.bytes_left = min(self.expanded, self.disk)
        self.members_left = MAX_MEMBERS
        self.archive = archive
        self.bar = bar

    def take_bytes(self, count: int) -> None:
        self.bytes_left -= count
        self.bar.update(count)
        if self.bytes_left < 0 and self.disk < self.expanded:
            raise UserError(
                f"{os.fspath(self.archive)!r}: unpacks to more than {self.disk:,} bytes (90 % of the free disk); free "
                "some space"
            )
        if self.bytes_left < 0:
            raise _refusal(self.archive, f"unpacks to more than {self.expanded:,} bytes")

    def take_member(self) -> None:
        self.members_left -= 1
        if self.members_left < 0:
            raise _refusal(self.archive, f"holds more than {MAX_MEMBERS:,} files")


class _Metered:
    """A tar stream whose bytes, headers included, count against the budget as they are read."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._budget.take_bytes(len(data))
        return data


class _Member(tarfile.TarInfo):
    """A tar header; a damaged or missing one is an error, which tarfile takes for the end of the archive."""

    @classmethod
    def fromtarfile(cls, source: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(source)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end mark
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} before the end mark") from None


def _unpack_nested(archive: Path, folder: Path, depth: int, budget: _Budget) -> None:
    if depth > MAX_DEPTH:
        raise _refusal(budget.archive, f"holds archives more than {MAX_DEPTH} levels deep")
    try:
        _unpack_one(archive, folder, budget)
    except _ERRORS as error:
        if is_of_the_disk(error):
            raise UserError(f"{os.fspath(archive)!r}: cannot be unpacked here ({reason(error)})") from None
        raise UnusableArchive(
            f"{os.fspath(archive)!r}: cannot be unpacked ({reason(error)}); get a complete copy, or unpack it yourself "
            "and set dataset.source to the folder"
        ) from None
    for inner in [folder / path for path in walk_files(folder) if is_archive(path)]:
        place = _free_place(inner)
        place.mkdir()
        _unpack_nested(inner, place, depth + 1, budget)
        inner.unlink()
        _lift_only_child(place)


def _unpack_one(archive: Path, folder: Path, budget: _Budget) -> None:
    with open(archive, "rb") as file:
        start = file.read(8)
    if start.startswith((b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c")):
        _unpack_rar_or_7z(archive, folder, budget)
        return
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        _unpack_zip(archive, folder, budget)
        return
    compressed = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if compressed is None and not tarfile.is_tarfile(archive):
        raise UnusableArchive(
            f"{os.fspath(archive)!r}: not a ZIP, tar, RAR or 7z archive (it starts with {start!r}); get a complete copy"
        )
    with (compressed or open)(archive, "rb") as stream:
        _unpack_tar(stream, archive, folder, budget)


def _unpack_zip(archive: Path, folder: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as source:
        for member in source.infolist():
            # Some programs on Windows write backslashes, against the format.
            member.filename = member.filename.replace("\\", "/")
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_member(archive, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), budget)
            _check_new(archive, folder, member.filename)
            budget.take_bytes(member.file_size)  # zipfile writes no more than this of a member
            source.extract(member, folder)


def _unpack_tar(stream: IO[bytes], archive: Path, folder: Path, budget: _Budget) -> None:
    metered = cast(IO[bytes], _Metered(stream, budget))
    with tarfile.open(fileobj=metered, mode="r|", encoding="utf-8", tarinfo=_Member) as source:
        for member in source:
            is_plain = member.isdir() or member.isreg() and not member.issparse()
            _check_member(archive, member.name, is_plain, budget)
            _check_new(archive, folder, member.name)
            source.extract(member, folder, filter="data")
    while metered.read(2**20):  # to the checksum at the end of a compressed archive
        pass


def _unpack_rar_or_7z(archive: Path, folder: Path, budget: _Budget) -> None:
    """Let bsdtar rewrite the archive as a tar stream, which passes the same checks as any other tar."""
    if shutil.which(UNPACKER) is None:
        raise UserError(
            f"{os.fspath(archive)!r}: RAR and 7z need {UNPACKER}: install it (apt install libarchive-tools), or unpack "
            "the archive yourself and set dataset.source to the folder"
        )
    command = [UNPACKER, "--format=pax", "-cf", "-", f"@{os.path.abspath(archive)}"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # names that are not ASCII need a UTF-8 locale
    broken: tarfile.TarError | None = None
    with tempfile.TemporaryFile() as messages:
        # Leaving the block closes the pipe, which also ends a bsdtar that is still writing.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, env=environment) as process:
            try:
                _unpack_tar(cast(IO[bytes], process.stdout), archive, folder, budget)
            except tarfile.TarError as error:
                broken = error
        messages.seek(0)
        message = messages.read().decode("utf-8", "backslashreplace").strip()
    if process.returncode or broken:
        # bsdtar prints "(null)" for most errors that are not of the archive's start.
        raise tarfile.ReadError(message.replace("(null)", "damaged, encrypted, or one volume of several"))


def _check_member(archive: Path, name: str, is_plain: bool, budget: _Budget) -> None:
    budget.take_member()
    if not is_plain:
        raise _refusal(archive, f"member {name!r} is a link, a device or a sparse file")
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise _refusal(archive, f"member {name!r} would be written outside the folder")


def _check_new(archive: Path, folder: Path, name: str) -> None:
    """Refuse a second file of one name: one of the two would be lost without a word."""
    if os.path.isfile(folder / name):
        raise _refusal(archive, f"member {name!r} is there twice")


def _free_place(inner: Path) -> Path:
    ending = max((ending for ending in ENDINGS if inner.name.lower().endswith(ending)), key=len)
    place = inner.with_name(inner.name[: -len(ending)] or "archive")
    while os.path.lexists(place):
        place = place.with_name(place.name + "~")
    return place


def _lift_only_child(folder: Path) -> None:
    if os.listdir(folder) == [folder.name] and (folder / folder.name).is_dir():
        aside = folder.with_name(f".lifting-{folder.name}")
        os.replace(folder, aside)
        os.replace(aside / folder.name, folder)
        aside.rmdir()


def _refusal(archive: Path, why: str) -> UserError:
    return UnusableArchive(f"{os.fspath(archive)!r}: {why}; refused, nothing of the archive is kept")
