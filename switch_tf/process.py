"""The process of a command: its interruption by signals, its restart, and its end."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from switch_tf import runtime
from switch_tf.errors import Interruption

# Seconds until an interruption is raised again that Python has discarded.
_RAISED_AGAIN_AFTER = 0.1

# Signals that interrupted the command, and those of them whose exception Python has discarded.
_received: list[int] = []
_discarded: list[int] = []
# What is not taken down before the process ends; None where the process goes on.
_kept: list | None = None
# The environment with which the process of a command was started, or is started anew.
_first_environment: dict[str, str] = {}
_RESTARTED = "SWITCH_TF_RESTARTED"
_ENDING = (signal.SIGINT, signal.SIGTERM)
# Numbers of the files that stay open over that, also of those that stayed before.
_handed_on = {int(number) for number in os.environ.get(_RESTARTED, "").split()}


@contextlib.contextmanager
def interruptible(command: str) -> Iterator[None]:
    """Context of a whole command, which ends with one line and an `Interruption`'s status.

    It is raised by SIGINT and SIGTERM, or by what handles them itself, such as the training loop.

    Args:
      command: its name, before the line.

    Raises:
      SystemExit: the command was interrupted.
    """

    def interrupt(number, _):
        _received.append(number)
        raise Interruption(number)

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: interrupt, signal.SIGALRM: _raise_again}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    interruption, hook = None, sys.unraisablehook
    sys.unraisablehook = lambda what: _keep_interruption(what, hook)
    try:
        # Those that came while the process started anew.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        yield
        check_interrupted()
    except Interruption as error:
        interruption = error
    except Exception:
        # A library's import or callback may turn what `interrupt` raises into an error of its own.
        if not _received:
            raise
        interruption = Interruption(_received[0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()
        _discarded.clear()
    if interruption is not None:
        if runtime.is_chief():
            print(f"{command}: {interruption}", file=sys.stderr)
        sys.exit(interruption.status)


def check_interrupted() -> None:
    """To be called between the stages of a command, for what a library's C++ code has swallowed.

    Raises:
      Interruption: a signal came in the command, and the command still goes on.
    """
    if _received:
        raise Interruption(_received[0])


def interrupted_by() -> int | None:
    """The first signal that interrupted the command, if any: its work is to end at once."""
    return _received[0] if _received else None


def _keep_interruption(what, hook) -> None:
    """Has an `Interruption` raised again that Python discards, as in `__del__`; others go on.

    By a timer, because this is called where Python discards whatever is raised.
    """
    if isinstance(what.exc_value, Interruption):
        _discarded.append(what.exc_value.number)
        signal.setitimer(signal.ITIMER_REAL, _RAISED_AGAIN_AFTER)
    else:
        hook(what)


def _raise_again(*_) -> None:
    signal.raise_signal(_discarded.pop())


def ends_at_once() -> None:
    """Says that the process is a command's, which ends it without clean-up and may restart it."""
    global _kept
    _kept = []
    _first_environment.update(os.environ)


def can_restart() -> bool:
    """Whether this process is a command's, which an `errors.Restart` starts anew."""
    return _kept is not None


def restart() -> NoReturn:
    """Starts the command anew in this process, as it was started at first.

    Its number stays, and the files that `hand_on` names; memory, threads and other files go.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for number in {*map(int, os.listdir("/proc/self/fd"))} - {0, 1, 2} - _handed_on:
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
    # They wait until the new process has its handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    kept = {_RESTARTED: " ".join(map(str, _handed_on))}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], _first_environment | kept)


def has_restarted() -> bool:
    """Whether this process is that of a command that `restart` started anew."""
    return _RESTARTED in os.environ


def hand_on(file) -> None:
    """Has a file, with what is locked by it, stay open over a `restart`."""
    number = os.dup(file.fileno())
    os.set_inheritable(number, True)
    _handed_on.add(number)


def keep(thing) -> None:
    """Keeps what takes long to take down until the process ends, if it then ends at once.

    An iterator of tf.data waits until its threads have filled their buffers: up to a minute.
    """
    if _kept is not None:
        _kept.append(thing)
