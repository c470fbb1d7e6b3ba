"""SIGINT and SIGTERM, which ask a run to save and stop."""

import os
import signal

from switch_tf import runtime
from switch_tf.errors import Interruption


class StopSignals:
    """Context in which SIGINT or SIGTERM asks the loop to stop; a second one interrupts it.

    A signal that came before, but that a library swallowed, counts as the first.
    """

    def __init__(self):
        self.number = runtime.interrupted_by()
        self._before = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number, _):
        if self.stopped():
            raise Interruption(number)
        self.number = number
        if runtime.is_chief():
            name = signal.Signals(number).name
            told = f"{name}: ends after this step or batch, and saves; again to end unsaved\n"
            # Not print, which may be what the signal has interrupted.
            os.write(2, told.encode())

    def stopped(self) -> bool:
        """Whether a signal has been received."""
        return self.number is not None
