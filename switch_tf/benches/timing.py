"""Times calls in turn, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median and the extremes of several rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        values = [float(value) for value in values]
        return cls(statistics.median(values), min(values), max(values))

    def over(self, other: Spread) -> Spread:
        """The ratio of two spreads measured in separate rounds."""
        return Spread(
            self.median / other.median, self.lowest / other.highest, self.highest / other.lowest
        )

    def row(self, name: str, digits: int = 0) -> tuple[str, ...]:
        """The spread as a row of a table."""
        return (name, *(f"{v:,.{digits}f}" for v in (self.median, self.lowest, self.highest)))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile of at least one value."""
    # A single value has no quantiles.
    several = [*values, *values] if len(values) == 1 else values
    return tuple(statistics.quantiles(several, n=4, method="inclusive"))


def quartile_figures(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """The median and the other quartiles of timings, as figures NAME_seconds and so on."""
    lower, median, upper = quartiles(seconds)
    return {
        f"{name}_seconds": median,
        f"{name}_seconds_lower_quartile": lower,
        f"{name}_seconds_upper_quartile": upper,
    }


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int = 1, seconds: float = 0.0
) -> dict[str, Spread]:
    """The spread of each call's times, by name, in seconds; see `times_in_turn`.

    Use medians for ratios, since other programs slow all calls alike. To decide which call is
    faster, use the lowest values: other programs only ever add time.
    """
    taken = times_in_turn(calls, rounds, seconds)
    return {name: Spread.of(values) for name, values in taken.items()}


def times_in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int = 1, seconds: float = 0.0
) -> dict[str, list[float]]:
    """Times each call in each round, by name, in seconds.

    Args:
      calls: name -> a call that returns when its work is done, and has been called once to warm up.
      rounds: minimum number of rounds. More give a steadier median and take proportionally longer.
      seconds: minimum total time of all rounds.
    """
    taken = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while rounds > 0 or time.perf_counter() < end:
        rounds -= 1
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return taken
