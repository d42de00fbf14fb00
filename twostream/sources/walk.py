"""Walk, name and copy files whose names may contain any character but a slash."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from twostream.core.digests import Digests
from twostream.core.files import reflink
from twostream.errors import UserError, reason

# A file system allows 255 bytes; the clip stores add their own ending, and a suffix while they write.
MAX_NAME_BYTES = 200


def walk_files(root: Path) -> Iterator[Path]:
    """Yield every file under `root`, as a path relative to it, in the byte order of the names.

    Links are followed, but never in a circle; a link to nothing is yielded like a file. Hidden files and folders, and
    the `__MACOSX` folders of ZIP files made on a Mac, are skipped.

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
        raise UserError(f"{os.fspath(folder)!r}: cannot be listed ({reason(error)}); repair or remove it") from None
    inode = (status.st_dev, status.st_ino)
    if inode in ancestors:
        return
    for name in entries:
        if name.startswith(".") or name == "__MACOSX":
            continue
        if (folder / name).is_dir():
            yield from _walk(root, below / name, (*ancestors, inode))
        else:
            yield below / name


def readable_text(name: str) -> str:
    """Return `name` as printable text: bytes that are not UTF-8, and control characters but newlines, as `\\xNN`."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c == "\n" or c.isprintable() or ord(c) > 0x9F else f"\\x{ord(c):02x}" for c in text)


def safe_name(name: str) -> str:
    """Return a file name that clip stores and tables can hold: :func:`readable_text`, at most 200 bytes.

    A longer name keeps its start and its ending, with a digest of the complete name between them, so that two long
    names stay different.
    """
    text = readable_text(name)
    if len(text.encode()) <= MAX_NAME_BYTES:
        return text
    stem, ending = os.path.splitext(text)
    tail = f"~{sha256(text.encode()).hexdigest()[:12]}{ending if len(ending.encode()) <= 16 else ''}"
    return stem.encode()[: MAX_NAME_BYTES - len(tail.encode())].decode("utf-8", "ignore") + tail


def copy_file(source: Path, target: Path, disposable: bool = False) -> None:
    """Copy `source` to the new file `target`: a reflink if the file system supports it, else a full copy.

    Args:
        disposable: `source` is ours and soon deleted, so a hard link may replace the full copy. Never set this for a
            user's own file: DVC would write-protect it through the link.

    Raises:
        UserError: `source` cannot be read or `target` not be written. No partial file is left.
    """
    try:
        if reflink(source, target):
            return
        if disposable:
            with contextlib.suppress(OSError):  # another file system, or one without hard links: copy
                os.link(source, target)
                return
        shutil.copyfile(source, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise UserError(f"{os.fspath(source)!r}: cannot be copied to {os.fspath(target)!r} ({reason(error)})") from None


def keep_or_copy(source: Path, target: Path, before: Path, digests: Digests, disposable: bool = False) -> None:
    """Link `before` to the new file `target` if its content is that of `source`; otherwise :func:`copy_file`.

    A copy has to be read again, by DVC and by the stages; a file that stays has not.
    """
    with contextlib.suppress(OSError):  # there is none, or `copy_file` says what is wrong with the source
        old = os.lstat(before)
        is_alike = stat.S_ISREG(old.st_mode) and old.st_size == os.stat(source).st_size
        if is_alike and digests.sha256(before) == digests.sha256(source):
            os.link(before, target)
            return
    copy_file(source, target, disposable)


@contextlib.contextmanager
def new_folder(target: Path, replaces: bool = False) -> Iterator[Path]:
    """Yield a folder to fill that becomes `target` when the block succeeds, and is deleted when it fails.

    Args:
        replaces: delete what `target` holds, when the block succeeds.

    Raises:
        UserError: `target` exists and is not an empty folder, and nothing is replaced.
    """
    if target.exists() and not replaces:
        if not target.is_dir() or any(target.iterdir()):
            raise UserError(f"{os.fspath(target)!r}: exists and is not empty; remove it")
        target.rmdir()
    part = target.with_name(target.name + ".part")
    if part.exists():  # of a run that was killed
        shutil.rmtree(part)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part)
        raise
    if target.exists():
        shutil.rmtree(target)
    os.replace(part, target)
