"""Files: write them whole, copy them cheaply, name their content, and lock them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path

_FICLONE = 0x40049409  # _IOW(0x94, 9, int) of linux/fs.h: share another file's blocks, copied when either is written


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends without an error.

    Readers see the old file or the new one, never half of one. The folder is created; after an error, the temporary
    file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def reflink(source: Path, target: Path) -> bool:
    """Create `target` as a copy-on-write clone of `source`; return False, without a file, where that is impossible.

    Btrfs and XFS can, within one file system.

    Raises:
        OSError: `source` cannot be opened.
        FileExistsError: `target` exists.
    """
    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            return True
        except OSError:
            target.unlink()
            return False


def expand_home(path: str) -> str:
    """Return a path with the home folder in place of a leading `~`, `$HOME` or `${HOME}`."""
    return os.path.expanduser(re.sub(r"^\$(HOME|\{HOME\})(?=/|$)", "~", path))


def md5_of(path: str | Path) -> str:
    """Return the hexadecimal MD5 of a file's content, the name that DVC's object store gives it."""
    return _hexdigest(path, hashlib.md5(usedforsecurity=False))


def sha256_of(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    return _hexdigest(path, hashlib.sha256())


def _hexdigest(path: str | Path, digest: hashlib._Hash) -> str:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_intact(archive: Path) -> bool:
    """Return whether a ZIP file, such as those of `torch.save`, is there with the bytes that its checksums promise."""
    try:
        with zipfile.ZipFile(archive) as file:
            return file.testzip() is None
    except Exception:  # a damaged byte can lead to any error
        return False


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a lock file; the lock ends with the process.

    Args:
        wait: whether to wait for another process that has the lock. If not, BlockingIOError is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
