"""Bootstrap intervals: what a figure of few seeds may be, given how these differ."""

from collections.abc import Callable, Sequence

import numpy as np

LEVEL = 0.95
_DRAWS = 10_000


def interval(
    statistic: Callable[..., np.ndarray], *samples: Sequence[float]
) -> tuple[float, float]:
    """The percentile interval of a statistic, at the level 95%.

    Each sample is drawn anew from itself, with replacement, 10,000 times (Efron, 1979). The draws
    are the same in each call. With three seeds a sample, the interval is about the range of what
    they allow, and too narrow rather than too wide: it knows only the seeds it has seen.

    Args:
      statistic: takes arrays [draws, size of the sample], one of each sample, and reduces the last
        axis.
      samples: the values of each sample, one a seed.

    Returns:
      The lower and the upper end.

    Raises:
      ValueError: a sample is empty.
    """
    if not all(samples):
        raise ValueError("a sample is empty")
    rng = np.random.default_rng(0)
    drawn = []
    for sample in samples:
        index_DN = rng.integers(len(sample), size=(_DRAWS, len(sample)))
        drawn.append(np.asarray(sample, np.float64)[index_DN])
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(statistic(*drawn), (tail, 100 - tail))
    return float(low), float(high)


def lead(ours_DN: np.ndarray, theirs_DN: np.ndarray) -> np.ndarray:
    """The difference of two means, for `interval`."""
    return ours_DN.mean(-1) - theirs_DN.mean(-1)


def mean(values_DN: np.ndarray) -> np.ndarray:
    """The mean, for `interval`."""
    return values_DN.mean(-1)
