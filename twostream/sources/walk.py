"""Walk, name and copy files whose names may hold anything but a slash."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from twostream.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: no reflinks through ioctl there, and no locks between processes
    fcntl = None

# _IOW(0x94, 9, int) of linux/fs.h: share the blocks of another file, copied when either is written to.
FICLONE = 0x40049409

# A file system allows 255 bytes; the stores add an ending of their own, and a suffix while they write.
MAX_NAME_BYTES = 200


def walk_files(root: Path) -> Iterator[Path]:
    """Every file under `root`, as paths relative to it, in the byte order of their names.

    Links are followed (a link to nowhere is yielded as it stands), but never in a circle. Hidden files and folders, and
    the `__MACOSX` folders of ZIP files made on a Mac, are left out.

    Raises:
        UserError: a folder cannot be listed.
    """
    return _walk(root, Path(), ())


def _walk(root: Path, below: Path, ancestors: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    folder = root / below
    try:
        status = folder.stat()
        entries = sorted(os.listdir(folder), key=os.fsencode)
    except OSError as error:
        raise UserError(
            f"{os.fspath(folder)!r}: cannot be listed ({error.strerror}); mend it or take it away"
        ) from None
    here = (status.st_dev, status.st_ino)
    if here in ancestors:
        return
    for name in entries:
        if name.startswith(".") or name == "__MACOSX":
            continue
        if (folder / name).is_dir():
            yield from _walk(root, below / name, (*ancestors, here))
        else:
            yield below / name


def readable_text(name: str) -> str:
    """`name` as text for any file: bytes that are not UTF-8, and control characters but the newline, as `\\xNN`."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c == "\n" or c.isprintable() or ord(c) > 0x9F else f"\\x{ord(c):02x}" for c in text)


def safe_name(name: str) -> str:
    """A file name that stores and tables can hold: :func:`readable_text`, at most 200 bytes.

    A longer name keeps its start and its ending, with a digest of the whole between them, so that two long names stay
    two.
    """
    text = readable_text(name)
    if len(text.encode()) <= MAX_NAME_BYTES:
        return text
    stem, ending = os.path.splitext(text)
    tail = f"~{sha256(text.encode()).hexdigest()[:12]}{ending if len(ending.encode()) <= 16 else ''}"
    return stem.encode()[: MAX_NAME_BYTES - len(tail.encode())].decode("utf-8", "ignore") + tail


def copy_file(source: Path, target: Path, disposable: bool = False) -> None:
    """Make `target` a file of its own with the content of `source`: a reflink where the file system can, else a copy.

    Args:
        disposable: the source is ours and soon deleted, so a hard link will do where a reflink will not. Never set this
            for a user's own file: DVC would write-protect it through the link.

    Raises:
        UserError: the source cannot be read or the target not be written. Nothing half-written is left.
    """
    try:
        if _reflink(source, target):
            return
        if disposable:
            with contextlib.suppress(OSError):  # another file system, or one without hard links: copy
                os.link(source, target)
                return
        shutil.copyfile(source, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise UserError(
            f"{os.fspath(source)!r}: cannot be copied to {os.fspath(target)!r} ({error.strerror})"
        ) from None


def _reflink(source: Path, target: Path) -> bool:
    if fcntl is None:
        return False
    with open(source, "rb") as reader:
        try:
            with open(target, "xb") as writer:
                fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
            return True
        except OSError:  # not one file system, or one that shares no blocks
            target.unlink(missing_ok=True)
            return False


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that takes the name `target` when the block ends well; a killed run's leftover is removed.

    Raises:
        UserError: `target` exists and is not an empty folder.
    """
    if target.exists():
        if not target.is_dir() or any(target.iterdir()):
            raise UserError(f"{os.fspath(target)!r}: is there already and not empty; remove it")
        target.rmdir()
    part = target.with_name(target.name + ".part")
    remove_tree(part)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        remove_tree(part)
        raise
    os.replace(part, target)


def remove_tree(folder: Path) -> None:
    """Delete a folder if it is there, even where an unpacker left folders without write permission."""
    if not os.path.lexists(folder):
        return
    for path, folders, _ in os.walk(folder):
        for name in folders:
            inner = os.path.join(path, name)
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                os.chmod(inner, 0o700)
    shutil.rmtree(folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for another process that holds it; a killed process holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
