"""The one exception that people are meant to read."""


class UserError(Exception):
    """Something that the user can mend: the message is one line that says what is wrong, where, and what to do.

    Stages and the command line print the message alone and exit with code 2; anything else is a bug and keeps its
    traceback.
    """
