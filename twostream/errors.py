"""Errors for the user, and one line about any error."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY, errno.EIO)


class UserError(Exception):
    """An error that the user can fix: one line that says what is wrong, in which file or key, and what to do.

    Stages and the command line print the message without a traceback and exit with code 2. Any other exception is a
    bug and keeps its traceback.
    """

    def __init__(self, message: str):
        # PyTorch makes another error of one in a loader's process: its traceback, and the message at the end.
        super().__init__(message.rpartition("twostream.errors.UserError: ")[2].strip())


def validation_reason(error: ValidationError) -> str:
    """Return the first problem of a pydantic error in one line, `key: message`, and how many more there are."""
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    more = f" (and {len(others)} more)" if others else ""
    return f"{key}: {message}{more}" if key else f"{message}{more}"


def is_of_the_disk(error: BaseException) -> bool:
    """Return whether the file system refuses: it is full, read-only or broken, or a permission is missing."""
    return isinstance(error, OSError) and error.errno in _OF_THE_DISK


def reason(error: BaseException) -> str:
    """Return what went wrong in one line: an OSError's words without its number, else the message's first line."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[0]
