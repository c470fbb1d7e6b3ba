"""Permutations and mixing schedules that any position can be looked up in, from a seed alone.

Nothing is stored and nothing counted from the start: what stands at a position is computed, so a
run resumes anywhere at once, and every host comes to the same order.
"""

import functools
import hashlib
from collections.abc import Mapping

import numpy as np

# Of a Feistel network; four make it as good as random to a distinguisher, the rest is margin.
_ROUNDS = 8
# Below this many values a network has too few different permutations.
_MIN_BITS = 8
# Examples after which every task of a mixture has had its share, to the example.
CYCLE = 65_536


def key(*parts: int | str) -> int:
    """64 bits that depend on all parts, the same on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the result depends on every bit of a value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Where `indices` go in a permutation of 0 .. size - 1.

    A Feistel network over the next power of four, walked on until a value falls below `size`
    (Black and Rogaway, 2002): constant memory, however large the permutation.

    Args:
      indices: whole numbers below `size`.
      size: at least 1.
      seed: of `key`; another gives another permutation.

    Returns:
      int64, as many as `indices`.
    """
    half = np.uint64(max(_MIN_BITS, (size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    keys = [np.uint64(key(seed, number)) for number in range(_ROUNDS)]

    def network(values):
        left, right = values >> half, values & mask
        for word in keys:
            left, right = right, left ^ (_mixed(right + word) & mask)
        return (left << half) | right

    with np.errstate(over="ignore"):
        values = network(np.asarray(indices).astype(np.uint64))
        while (outside := values >= np.uint64(size)).any():
            values[outside] = network(values[outside])
    return values.astype(np.int64)


class Schedule:
    """Which task each example of a mixture comes from.

    In every cycle of CYCLE examples each task has its share, rounded by largest remainders and at
    least one; the order within a cycle is a permutation of its own.

    Args:
      rates: task -> rate, above 0.
      seed: of `key`.
    """

    def __init__(self, rates: Mapping[str, float], seed: int):
        self._seed = seed
        self.shares = dict(
            zip(rates, _shares(np.array(list(rates.values()), float)).tolist(), strict=True)
        )
        self._ends = np.cumsum(list(self.shares.values()))
        self._cycle = functools.lru_cache(maxsize=2)(self._make_cycle)

    def at(self, position: int) -> int:
        """Number of the task at a position of the mixture."""
        cycle, place = divmod(position, CYCLE)
        return int(self._cycle(cycle)[place])

    def _make_cycle(self, cycle: int) -> np.ndarray:
        slots = permute(np.arange(CYCLE), CYCLE, key(self._seed, "cycle", cycle))
        return np.searchsorted(self._ends, slots, side="right")


def _shares(rates: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to CYCLE, in the proportion of the rates, each at least 1."""
    exact = rates / rates.sum() * CYCLE
    shares = np.maximum(np.floor(exact).astype(int), 1)
    missing = CYCLE - int(shares.sum())
    if missing < 0:
        # Least shares were raised to 1: the largest gives.
        shares[np.argmax(shares)] += missing
    else:
        shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return shares
