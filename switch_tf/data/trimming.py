"""Trims evaluation batches by the columns that are padding in every example of a split."""

from collections.abc import Iterable, Mapping

import numpy as np

Features = Mapping[str, np.ndarray]


def longest(batches: Iterable[Features], multiple: int = 1) -> dict[str, int]:
    """Feature -> number of columns up to the last one that any batch uses.

    Args:
      batches: batches of features [batch, length], padded with 0; a feature has one length in all.
      multiple: columns are rounded up to a multiple of it, but never beyond the batches' length.

    Returns:
      The columns that encoder and decoder need, at least 1; features of one side share a number.
    """
    needed: dict[str, int] = {}
    width: dict[str, int] = {}
    for batch in batches:
        for name, array in batch.items():
            used, side = np.flatnonzero(array.any(axis=0)), _side(name)
            needed[side] = max(needed.get(side, 1), int(used[-1]) + 1 if used.size else 1)
            width[name] = array.shape[1]
    return {n: min(w, -(-needed[_side(n)] // multiple) * multiple) for n, w in width.items()}


def trim(batch: Features, columns: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Trims a batch's features to the columns found by `longest`."""
    return {name: array[:, : columns[name]] for name, array in batch.items()}


def _side(name: str) -> str:
    return name.partition("_")[0]
