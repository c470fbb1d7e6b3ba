"""The exception for users' mistakes."""


class UserError(Exception):
    """Invalid input. The message is one line: what is wrong, where, and how to fix it.

    `switch-tf` prints it without a traceback and exits with status 2.
    """
