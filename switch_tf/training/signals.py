"""SIGINT and SIGTERM, which ask a run to save and stop."""

import os
import signal

from switch_tf import process, runtime
from switch_tf.errors import Interruption
from switch_tf.hosts import agreement


class StopSignals:
    """Context in which SIGINT or SIGTERM asks the loop to stop; a second one interrupts it.

    A signal that came before, but that a library swallowed, counts as the first. Of several hosts,
    a signal to one stops all.
    """

    def __init__(self):
        self.number = process.interrupted_by()
        self._before = {}
        self._is_stopped = False

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number, _):
        if self.number is not None:
            raise Interruption(number)
        self.number = number
        if runtime.is_chief():
            name = signal.Signals(number).name
            told = f"{name}: ends after this step or batch, and saves; again to end unsaved\n"
            # Not print, which may be what the signal has interrupted.
            os.write(2, told.encode())

    def stopped(self) -> bool:
        """Whether a signal has been received, on any host; all call it at the same places."""
        if not self._is_stopped and agreement.stops(self.number is not None):
            self._is_stopped = True
            self.number = self.number or signal.SIGTERM
        return self._is_stopped
