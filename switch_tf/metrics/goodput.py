"""Where the wall time of a run goes, over all its processes: its goodput is the share of steps."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

STEPS, START, LOST, OTHER = "steps", "start", "lost", "other"
# In the order in which they are shown.
KINDS = (STEPS, START, "compiling", "input", "evaluation", "saving", LOST, OTHER)
_SHOWN = {LOST: "steps lost to restarts"}
# When the command of the next run began, before TensorFlow's start.
_command_began: list[float] = []


@contextlib.contextmanager
def of_command() -> Iterator[None]:
    """Context of a command, with whose beginning the time of its `Goodput` begins."""
    _command_began[:] = [time.monotonic()]
    try:
        yield
    finally:
        _command_began.clear()


class Goodput:
    """Adds up seconds of wall time by kind.

    `start` is everything before the first step of a process, `compiling` that step, `input` the
    waits for batches, `lost` the steps that are made again after a restart or a bad step, and
    `other` what remains, such as writing the log. The time between two processes of a run is not
    known, and not counted.

    Args:
      clock: returns seconds; setting the machine's clock must not change them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._clock = clock
        self._since = _command_began.pop() if _command_began else clock()

    def resume(self, earlier: Mapping[str, float], lost: float) -> None:
        """Adds what the run's processes before this one took.

        Args:
          earlier: kind -> seconds.
          lost: seconds of the steps that they made beyond the checkpoint that is restored.
        """
        for kind in KINDS:
            self._seconds[kind] += float(earlier.get(kind, 0.0))
        self._seconds[LOST] += lost

    def lose(self, seconds: float) -> None:
        """Counts seconds of steps as lost, which are made again."""
        self._seconds[STEPS] -= seconds
        self._seconds[LOST] += seconds

    def started(self) -> None:
        """Ends the time before the first step."""
        self.add(START, self._clock() - self._since)

    def add(self, kind: str, seconds: float) -> None:
        """Adds seconds that have just passed to one of `KINDS`."""
        self._seconds[kind] += seconds
        self._since += seconds

    @contextlib.contextmanager
    def within(self, kind: str) -> Iterator[None]:
        """Context whose time is of one of `KINDS`, also if it ends with an error."""
        started = self._clock()
        try:
            yield
        finally:
            self.add(kind, self._clock() - started)

    def seconds(self) -> dict[str, float]:
        """Kind -> seconds until now."""
        now = self._clock()
        self._seconds[OTHER] += max(now - self._since, 0.0)
        self._since = now
        return dict(self._seconds)

    def line(self) -> str:
        """The kinds that took time until now, in a line."""
        seconds = self.seconds()
        found = shares(seconds)
        parts = (f"{_SHOWN.get(kind, kind)} {found[kind]:.0%}" for kind in KINDS if found[kind])
        return f"time: {sum(seconds.values()):,.0f} s: {', '.join(parts)}"


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Kind -> its share of all these seconds."""
    total = sum(seconds.values())
    return {kind: value / total if total else 0.0 for kind, value in seconds.items()}
