"""Waits for data in a way that signals and a limit can end."""

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from switch_tf.errors import InputHangs
from switch_tf.rules import Positive, configurable
from switch_tf.stages import telling

# Seconds until a wait is told of.
_UNREMARKABLE = 5.0
# Seconds until a signal is noticed in such a wait.
_LOOK_EVERY = 1.0


@configurable
@dataclasses.dataclass(frozen=True)
class Input:
    """How a run waits for its data.

    Attributes:
      timeout: seconds to wait for a batch before the run ends with an error that names the task.
        Shorter loses less time where a disk or a network hangs, but it must be longer than what
        the first batch takes, for which buffers are filled.
    """

    timeout: Positive = 1800.0


def within(
    seconds: float,
    take: Callable[[], Any],
    what: str,
    is_over: Callable[[], bool] = lambda: False,
) -> Any:
    """The result of a call that may never return, such as a read from a disk that is gone.

    It runs in a thread of its own: a signal would not be heard before TensorFlow returns.

    Args:
      seconds: how long to wait for it.
      take: the call. What it raises is raised here.
      what: what is waited for, such as "the next batch".
      is_over: whether to give up soon, such as after a signal to stop.

    Raises:
      InputHangs: it has not returned by then; its thread is left alone.
    """
    outcomes: queue.SimpleQueue = queue.SimpleQueue()

    def run():
        try:
            outcomes.put((take(), None))
        except BaseException as error:
            outcomes.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    found, error = _wait(outcomes, seconds, what, is_over)
    if error is not None:
        raise error
    return found


def _wait(
    outcomes: queue.SimpleQueue, seconds: float, what: str, is_over: Callable[[], bool]
) -> tuple:
    until = time.monotonic() + seconds
    with contextlib.suppress(queue.Empty):
        return outcomes.get(timeout=min(seconds, _UNREMARKABLE))
    with telling(f"waiting for {what}"):
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                return outcomes.get(timeout=min(_LOOK_EVERY, max(until - time.monotonic(), 0.0)))
            if is_over():
                raise InputHangs(f"{what} does not come; rerun the command to resume")
    raise InputHangs(
        f"{what} has not come within {seconds:g} s (Input.timeout): see whether what it is read "
        "from answers, or raise that; rerun the command to resume"
    )
