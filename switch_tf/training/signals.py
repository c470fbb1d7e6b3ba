"""SIGINT and SIGTERM, which ask a run to save and stop."""

import signal


class StopSignals:
    """Context in which SIGINT or SIGTERM asks the loop to stop; a second one interrupts it."""

    def __init__(self):
        self.name = None
        self._before = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number, _):
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def stopped(self) -> bool:
        """Whether a signal has been received."""
        return self.name is not None
