"""The exceptions that end a command: a user's mistake, a signal, and a start anew."""

import signal


class UserError(Exception):
    """Invalid input. The message is one line: what is wrong, where, and how to fix it.

    `switch-tf` prints it without a traceback and exits with its status.
    """

    status = 2


class HostLost(UserError):
    """Another host of the run has ended or does not answer. A rerun on all hosts resumes.

    The status is that of a temporary failure (EX_TEMPFAIL), so that a scheduler can try again.
    """

    status = 75


class InputHangs(UserError):
    """The data do not come. A rerun resumes; the status is that of a temporary failure."""

    status = 75


class StorageFails(UserError):
    """A remote file system does not answer, or fails for now. A rerun resumes.

    The status is that of a temporary failure, as of `HostLost`.
    """

    status = 75


class Interruption(KeyboardInterrupt):
    """SIGINT (Ctrl-C) or SIGTERM ended the work, after it saved what it saves.

    The message is one line: which signal, what is kept, and how to resume. `switch-tf` prints it
    without a traceback and exits with the status that shells give a command that a signal ended:
    130 for SIGINT, 143 for SIGTERM. So a scheduler can tell a run to be resumed from a finished
    one, with status 0, and from a failed one.

    A KeyboardInterrupt, so that no `except Exception` takes it for a failure.

    Args:
      number: the signal's.
      kept: what is kept, and how to resume.

    Attributes:
      number: the signal's.
      kept: as given.
      status: the exit status, 128 + `number`.
    """

    def __init__(
        self,
        number: int,
        kept: str = "only what was already written is kept; rerun the command",
    ):
        super().__init__(f"interrupted by {signal.Signals(number).name}: {kept}")
        self.number = number
        self.kept = kept
        self.status = 128 + number


class Restart(BaseException):
    """The command ends its process, and starts again in it, to go on with what is saved."""
