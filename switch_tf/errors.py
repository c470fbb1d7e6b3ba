"""The one exception that a user's mistake becomes."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and how to mend it.

    `switch-tf` prints it without a traceback and exits with status 2.
    """
