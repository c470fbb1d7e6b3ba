"""Permutations and mixing schedules with random access, computed from a seed alone.

Nothing is stored or counted from the start: the entry at any position is computed directly, so a
run resumes anywhere at once and every host arrives at the same order.
"""

import functools
import hashlib
from collections.abc import Mapping

import numpy as np

# Rounds of a Feistel network; four make it indistinguishable from random, the rest is margin.
_ROUNDS = 8
# With fewer bits, a network has too few different permutations.
_MIN_BITS = 8
# After this many examples, every task of a mixture has had exactly its share.
CYCLE = 65_536


def key(*parts: int | str) -> int:
    """Hashes the parts to 64 bits, the same on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def scattered(count: int, seed: int) -> np.ndarray:
    """Numbers to sort by for an order that a seed selects: those of splitmix64, uint64 [count]."""
    with np.errstate(over="ignore"):
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return _mixed(steps + np.uint64(seed))


def permute(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Maps `indices` by a permutation of 0 .. size - 1.

    A Feistel network over the next power of four, iterated until a value falls below `size`
    (cycle walking; Black and Rogaway, 2002): constant memory, however large the permutation.

    Args:
      indices: integers from 0 to size - 1.
      size: the number of elements, at least 1.
      seed: selects the permutation; a result of `key`.

    Returns:
      The permuted indices, as int64.
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
    """Determines from which task each example of a mixture comes.

    In every cycle of CYCLE examples each task has its share, rounded by the largest-remainder
    method and at least one; each cycle is permuted differently.

    Args:
      rates: task -> mixing rate, above 0.
      seed: seeds the order; a result of `key`.
    """

    def __init__(self, rates: Mapping[str, float], seed: int):
        self._seed = seed
        self.shares = dict(
            zip(rates, _shares(np.array(list(rates.values()), float)).tolist(), strict=True)
        )
        self._ends = np.cumsum(list(self.shares.values()))
        self._cycle = functools.lru_cache(maxsize=2)(self._make_cycle)

    def at(self, position: int, phase: int = 0) -> int:
        """The index of the task at a position of the mixture.

        Args:
          position: the position, from 0.
          phase: the place, below CYCLE, at which every cycle begins and, once around, ends.
        """
        cycle, place = divmod(position, CYCLE)
        return int(self._cycle(cycle)[(place + phase) % CYCLE])

    def _make_cycle(self, cycle: int) -> np.ndarray:
        slots = permute(np.arange(CYCLE), CYCLE, key(self._seed, "cycle", cycle))
        return np.searchsorted(self._ends, slots, side="right")


def _shares(rates: np.ndarray) -> np.ndarray:
    """Integers that sum to CYCLE in proportion to the rates, each at least 1."""
    exact = rates / rates.sum() * CYCLE
    shares = np.maximum(np.floor(exact).astype(int), 1)
    missing = CYCLE - int(shares.sum())
    if missing < 0:
        # Small shares were raised to 1, at the cost of the largest.
        shares[np.argmax(shares)] += missing
    else:
        shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return shares
