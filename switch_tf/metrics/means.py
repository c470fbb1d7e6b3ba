"""Means of the figures of training steps over a period of the log."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Rates of time: their means weigh each step by its seconds.
_SECONDS = "seconds"
# The one figure that is a maximum.
_LARGEST = "max_logit"


class Means:
    """Collects the figures of steps until `take` returns their means.

    Attributes:
      steps: number of steps collected.
    """

    def __init__(self):
        self.steps = 0
        self._sums: dict[tuple[str, ...], Any] = {}
        self._rates: set[str] = set()

    def add(self, metrics: Mapping, rates: Mapping[str, float]) -> None:
        """Adds a step.

        Args:
          metrics: the metrics returned by `TrainStep`; those that are neither floats nor arrays nor
            dicts of them are left out.
          rates: name -> speed or share of time, and `seconds`, the step's time.
        """
        self.steps += 1
        self._rates = set(rates) - {_SECONDS}
        seconds = rates[_SECONDS]
        times = {name: rates[name] * seconds for name in self._rates} | {_SECONDS: seconds}
        for path, value in _flat({**metrics, **times}):
            before = self._sums.get(path)
            if before is None:
                self._sums[path] = value
            elif path[-1] == _LARGEST:
                # Not the builtin, which can lose a NaN.
                self._sums[path] = float(np.maximum(before, value))
            else:
                self._sums[path] = before + value

    def take(self) -> dict:
        """The means in the nesting of `add`, and the largest `max_logit`; starts a new period.

        Rates are those of the period as a whole: tokens per second are its tokens by its seconds.
        """
        found: dict = {}
        seconds = self._sums[(_SECONDS,)]
        for path, total in self._sums.items():
            inner = found
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            count = 1 if path[-1] == _LARGEST else self.steps
            inner[path[-1]] = total / (seconds if path[0] in self._rates else count)
        self.steps, self._sums = 0, {}
        return found


def _flat(figures: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, name))
        elif isinstance(value, float) or hasattr(value, "dtype"):
            yield (*path, name), value
