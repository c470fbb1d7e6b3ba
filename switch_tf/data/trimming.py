"""Evaluation without columns that are padding in every example of a split."""

from collections.abc import Iterable, Mapping

import numpy as np

Features = Mapping[str, np.ndarray]


def longest(batches: Iterable[Features], multiple: int = 1) -> dict[str, int]:
    """Feature -> columns up to the last that is not padding in any batch.

    Args:
      batches: of features [batch, length], of one length each, padded with 0.
      multiple: columns are rounded up to it, but never beyond what the batches have.

    Returns:
      Those that encoder and decoder need, each at least 1; features of one side have one number.
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
    """A batch's features, cut to the columns that `longest` found."""
    return {name: array[:, : columns[name]] for name, array in batch.items()}


def _side(name: str) -> str:
    return name.partition("_")[0]
