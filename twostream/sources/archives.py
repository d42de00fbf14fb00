"""Unpack archives that nobody vouches for: ZIP, tar, RAR and 7z, nested, and nothing outside the target folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from twostream.errors import UserError
from twostream.sources.walk import new_folder, remove_tree, walk_files

ENDINGS = (".zip", ".rar", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")

# What the machine may have for RAR and 7z, in the order tried. bsdtar first: it refuses absolute names, `..` and
# writing through links unless told otherwise.
UNPACKERS: dict[str, Callable[[str, str], list[str]]] = {
    "bsdtar": lambda archive, folder: ["-x", "-f", archive, "-C", folder, "--no-same-owner", "--no-same-permissions"],
    "unrar": lambda archive, folder: ["x", "-idq", "-y", "-p-", "--", archive, folder + os.sep],
    "7zz": lambda archive, folder: ["x", "-y", "-bd", "-p", f"-o{folder}", "--", archive],
    "7z": lambda archive, folder: ["x", "-y", "-bd", "-p", f"-o{folder}", "--", archive],
}

MAX_DEPTH = 8
MAX_MEMBERS = 1_000_000
# Videos do not shrink in an archive; a hundredfold is no data set of videos but a bomb.
MAX_EXPANSION = 100
FREE_EXPANSION_BYTES = 2**30
MAX_DISK_PART = 0.9

_CHUNK_BYTES = 2**20
_VOLUME = re.compile(r"(?P<stem>.*\.part)(?P<number>\d+)\.rar", re.IGNORECASE | re.DOTALL)
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


def is_archive(path: str | Path) -> bool:
    """Whether the name has an archive's ending. Of a RAR in several volumes, only the first counts."""
    name = os.path.basename(path)
    volume = _VOLUME.fullmatch(name)
    return name.lower().endswith(ENDINGS) and (volume is None or int(volume["number"]) == 1)


def unpack(archive: Path, target: Path) -> None:
    """Unpack `archive`, and every archive inside it, into the new folder `target`.

    The kind is told from the content, not from the name. An archive inside becomes a folder of its name in its place;
    where it holds just one folder of that same name, there is one level of it. `target` appears when all is unpacked
    and not before: a run that is killed begins again.

    Raises:
        UserError: one line that names the archive and the member: not an archive, damaged, encrypted; a member that
            would leave the folder, or is a link or a device; more than a hundred times its size, nine tenths of the
            free disk, a million files or eight levels; no program here that reads RAR or 7z.
    """
    with (
        new_folder(target) as part,
        tqdm(desc=f"unpacking {_show(archive.name)}", unit="B", unit_scale=True, delay=1) as bar,
    ):
        _unpack_all(archive, part, 1, _Budget(archive, part, bar))


class _Budget:
    """How much may still be written, for an archive and all that is inside it."""

    def __init__(self, archive: Path, folder: Path, bar: tqdm) -> None:
        expanded = FREE_EXPANSION_BYTES + MAX_EXPANSION * archive.stat().st_size
        disk = int(MAX_DISK_PART * shutil.disk_usage(folder).free)
        self.left_bytes = min(expanded, disk)
        self.limit = (
            f"{_gb(disk)}, nine tenths of the free disk" if disk < expanded else f"{_gb(expanded)}, a hundredfold"
        )
        self.left_members = MAX_MEMBERS
        self.archive = archive
        self.bar = bar

    def take_bytes(self, count: int) -> None:
        self.left_bytes -= count
        self.bar.update(count)
        self.check_bytes(0)

    def check_bytes(self, pending: int) -> None:
        if pending > self.left_bytes:
            raise UserError(f"{_show(self.archive)}: unpacks to more than {self.limit}; nothing of it was kept")

    def take_member(self) -> None:
        self.left_members -= 1
        if self.left_members < 0:
            raise UserError(f"{_show(self.archive)}: holds more than {MAX_MEMBERS:,} files; nothing of it was kept")


def _unpack_all(archive: Path, folder: Path, depth: int, budget: _Budget) -> None:
    if depth > MAX_DEPTH:
        raise UserError(
            f"{_show(budget.archive)}: holds archives more than {MAX_DEPTH} levels deep; nothing of it was kept"
        )
    _unpack_one(archive, folder, budget)
    for inner in [folder / path for path in walk_files(folder) if is_archive(path)]:
        place = _free_place(inner)
        place.mkdir()
        _unpack_all(inner, place, depth + 1, budget)
        for volume in _volumes(inner):
            volume.unlink()
        _lift_only_child(place)


def _unpack_one(archive: Path, folder: Path, budget: _Budget) -> None:
    with open(archive, "rb") as file:
        start = file.read(8)
    try:
        if start.startswith((b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c")):
            _unpack_external(archive, folder, budget)
        elif start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unpack_zip(archive, folder, budget)
        elif start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")) or tarfile.is_tarfile(archive):
            _unpack_tar(archive, folder, budget)
        elif zipfile.is_zipfile(archive):  # with a program in front, to unpack itself
            _unpack_zip(archive, folder, budget)
        else:
            raise UserError(
                f"{_show(archive)}: not a ZIP, tar, RAR or 7z archive (it starts with {start!r}); get a whole copy of "
                "it"
            )
    except _BROKEN as error:
        raise UserError(f"{_show(archive)}: damaged ({_words(error)}); get a whole copy of it") from None
    except OSError as error:
        raise UserError(f"{_show(archive)}: cannot be unpacked ({_words(error)})") from None


def _unpack_zip(archive: Path, folder: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as source:
        members = source.infolist()
        budget.check_bytes(sum(member.file_size for member in members))
        for member in members:
            budget.take_member()
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, member.filename, "is a link or a device")
            if member.flag_bits & 1:
                raise UserError(
                    f"{_show(archive)}: member {member.filename!r} is encrypted; unpack it yourself and give the folder"
                )
            # Some programs on Windows write backslashes, against the format.
            name = member.filename.replace("\\", "/")
            path = _inside(archive, folder, name)
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            with _naming(archive, member.filename), source.open(member) as reader:
                _write(reader, path, budget)


def _unpack_tar(archive: Path, folder: Path, budget: _Budget) -> None:
    with _tar_stream(archive) as stream, tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as source:
        for member in source:
            budget.take_member()
            path = _inside(archive, folder, member.name)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                budget.check_bytes(member.size)
                with _naming(archive, member.name), source.extractfile(member) as reader:
                    _write(reader, path, budget)
            else:
                raise _refused(archive, member.name, "is a link or a device")
            source.members.clear()  # a million headers are not kept for a second look
        # The module takes a damaged header, or the end of a file cut between two members, for the end of the archive.
        stream.seek(source.offset)
        if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends before its end mark")
        while rest := stream.read(_CHUNK_BYTES):  # to the checksum at the end of a compressed one
            budget.take_bytes(len(rest))


def _tar_stream(archive: Path) -> IO[bytes]:
    with open(archive, "rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(archive)
    if start.startswith(b"BZh"):
        return bz2.open(archive)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(archive)
    return open(archive, "rb")


def _unpack_external(archive: Path, folder: Path, budget: _Budget) -> None:
    programs = [program for program in UNPACKERS if shutil.which(program)]
    if not programs:
        raise UserError(
            f"{_show(archive)}: RAR and 7z need a program that is not installed: install bsdtar (package "
            "libarchive-tools), unrar or 7z (packages 7zip and 7zip-rar), or unpack it yourself and set dataset.source "
            "to the folder"
        )
    failures = []
    for program in programs:
        work = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
        try:
            failure = _run(program, archive, work, budget)
            if failure is None:
                _check_tree(archive, work, budget)
                for name in os.listdir(work):
                    os.replace(work / name, folder / name)
                return
            failures.append(f"{program}: {failure}")
        finally:
            remove_tree(work)
    raise UserError(f"{_show(archive)}: cannot be unpacked ({'; '.join(failures)})")


def _run(program: str, archive: Path, folder: Path, budget: _Budget) -> str | None:
    """Run an unpacker; None, or what it complained of. Stopped when it writes more than the budget."""
    with tempfile.TemporaryDirectory() as links, tempfile.TemporaryFile() as said:
        # unrar and 7z take `*`, `?` and `[` in an archive's name for a pattern, so they are given another name.
        for volume in _volumes(archive):
            match = _VOLUME.fullmatch(volume.name)
            name = f"archive.part{match['number']}.rar" if match else f"archive{volume.suffix}"
            os.symlink(volume.absolute(), os.path.join(links, name))
            if volume == archive:
                first = os.path.join(links, name)
        command = [program, *UNPACKERS[program](first, os.fspath(folder.absolute()))]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=folder) as process:
            try:
                written = 0
                while True:
                    try:
                        process.wait(timeout=0.5)
                        break
                    except subprocess.TimeoutExpired:
                        now = _tree_bytes(folder)
                        budget.bar.update(now - written)
                        written = now
                        budget.check_bytes(written)
            finally:
                process.kill()
        budget.bar.update(-written)  # counted again, for good, when the tree is checked
        if process.returncode == 0:
            return None
        said.seek(0)
        lines = [line.strip() for line in said.read().decode("utf-8", "backslashreplace").splitlines() if line.strip()]
    blame = r"error:|cannot|can't|unsupported|unavailable|unrecognized|not support|truncated|wrong|encrypted"
    blamed = [line for line in lines if re.search(blame, line, re.IGNORECASE)]
    return ascii(blamed[0] if blamed else lines[0] if lines else f"exit status {process.returncode}")[1:-1]


def _check_tree(archive: Path, folder: Path, budget: _Budget) -> None:
    """Refuse what an unpacker wrote if it holds anything but files and folders of its own; count it."""
    for path, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            inner = os.path.join(path, name)
            status = os.lstat(inner)
            budget.take_member()
            if stat.S_ISDIR(status.st_mode):
                os.chmod(inner, 0o755)
            elif stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                os.chmod(inner, 0o644)
                budget.take_bytes(status.st_size)
            else:
                raise _refused(archive, os.path.relpath(inner, folder), "is a link or a device")


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:  # the unpacker, still at work, renamed it
                continue
    return total


def _inside(archive: Path, folder: Path, name: str) -> Path:
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name) or ".." in parts:
        raise _refused(archive, name, "would be written outside the folder")
    return folder.joinpath(*(part for part in name.split("/") if part not in ("", ".")))


def _write(reader: IO[bytes], path: Path, budget: _Budget) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            budget.take_bytes(len(chunk))
            writer.write(chunk)


class _naming:
    """Names the member in an error that comes while it is read or written."""

    def __init__(self, archive: Path, member: str) -> None:
        self.archive, self.member = archive, member

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (*_BROKEN, OSError)):
            raise UserError(
                f"{_show(self.archive)}: member {self.member!r} cannot be unpacked ({_words(error)})"
            ) from None


def _volumes(archive: Path) -> list[Path]:
    """The archive and, of a RAR in several volumes, the others beside it: `x.part2.rar`, or `x.r00` of old."""
    first = _VOLUME.fullmatch(archive.name)
    return [archive, *(archive.with_name(name) for name in sorted(_siblings(archive, first)))]


def _siblings(archive: Path, first: re.Match[str] | None) -> Iterator[str]:
    old = re.compile(re.escape(archive.stem) + r"\.[r-z]\d\d", re.IGNORECASE)
    for name in os.listdir(archive.parent):
        if name == archive.name:
            continue
        if first:
            other = _VOLUME.fullmatch(name)
            if other and other["stem"] == first["stem"]:
                yield name
        elif archive.suffix.lower() == ".rar" and old.fullmatch(name):
            yield name


def _free_place(inner: Path) -> Path:
    name = inner.name
    volume = _VOLUME.fullmatch(name)
    if volume:
        name = volume["stem"][: -len(".part")]
    else:
        name = name[: -len(max((e for e in ENDINGS if name.lower().endswith(e)), key=len))]
    place = inner.with_name(name or "archive")
    while os.path.lexists(place):
        place = place.with_name(place.name + "~")
    return place


def _lift_only_child(folder: Path) -> None:
    names = os.listdir(folder)
    if names == [folder.name] and (folder / folder.name).is_dir():
        aside = folder.with_name(f".lifting-{folder.name}")
        os.replace(folder, aside)
        os.replace(aside / folder.name, folder)
        aside.rmdir()


def _refused(archive: Path, member: str, why: str) -> UserError:
    return UserError(f"{_show(archive)}: member {member!r} {why}; refused, nothing of the archive was kept")


def _show(path: str | Path) -> str:
    return repr(os.fspath(path))


def _words(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def _gb(count: int) -> str:
    return f"{max(count, 0) / 1e9:.1f} GB"
