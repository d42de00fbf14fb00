"""Errors for the user, and one line about any error."""


class UserError(Exception):
    """An error that the user can fix: one line that says what is wrong, in which file or key, and what to do.

    Stages and the command line print the message without a traceback and exit with code 2. Any other exception is a
    bug and keeps its traceback.
    """


def reason(error: BaseException) -> str:
    """Return what went wrong in one line: an OSError's words without its number, else the message's first line."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[0]
