"""Times calls in turn, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of some rounds, and their extremes."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """That of at least one value."""
        values = [float(value) for value in values]
        return cls(statistics.median(values), min(values), max(values))

    def over(self, other: Spread) -> Spread:
        """The ratio of two that were not measured in the same rounds."""
        return Spread(
            self.median / other.median, self.lowest / other.highest, self.highest / other.lowest
        )

    def row(self, name: str, digits: int = 0) -> tuple[str, ...]:
        """A row of a table."""
        return (name, *(f"{v:,.{digits}f}" for v in (self.median, self.lowest, self.highest)))


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int = 1, seconds: float = 0.0
) -> dict[str, Spread]:
    """Seconds of each call, by its name.

    The median is for ratios of what runs beside other programs. The lowest tells which of two is
    the faster one: other programs only ever make them slower.

    Args:
      calls: name -> a call that ends when its work is done, and whose first was made.
      rounds: how often each is called, at least.
      seconds: of all rounds together, at least.
    """
    taken = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while rounds > 0 or time.perf_counter() < end:
        rounds -= 1
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: Spread.of(values) for name, values in taken.items()}
