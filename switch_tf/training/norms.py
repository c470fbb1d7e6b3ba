"""Norms of gradients, updates and weights, by groups of layers."""

from collections.abc import Sequence

import keras
import numpy as np

_KINDS = ("gradient", "update", "weight")
# Parts of a variable's path that name its group within its stack, the first that is found.
_PARTS = ("router", "experts", "attention", "norm", "ffn", "relative_position_bias")
# The group of all variables.
_ALL = "all"


def group_of(path: str) -> str:
    """The group of a variable: its stack and the kind of its layer.

    >>> group_of("model/encoder/layer_1/feed_forward/switch_ffn/experts/wi")
    'encoder/experts'
    >>> group_of("model/embedding/table")
    'embedding'
    """
    _, stack, *parts = path.split("/")
    found = [part for part in _PARTS if part in parts]
    return "/".join([stack, *found[:1]])


class Norms:
    """Norms of gradients, updates and weights by group, from the sums of squares of variables.

    Args:
      variables: the trainable variables.
    """

    def __init__(self, variables: Sequence[keras.Variable]):
        self._groups = [group_of(variable.path) for variable in variables]

    def by_group(self, squares: np.ndarray) -> dict[str, dict[str, float]]:
        """ "gradient", "update" and "weight" -> group, and "all" -> Euclidean norm.

        Args:
          squares: the result of `Optimizer.apply`, [3, variables].
        """
        return {
            kind: {name: float(np.sqrt(value)) for name, value in sorted(self._sums(row).items())}
            for kind, row in zip(_KINDS, squares.astype(float), strict=True)
        }

    def _sums(self, squares: np.ndarray) -> dict[str, float]:
        """Group, and "all" -> sum of squares."""
        found = {_ALL: float(squares.sum())}
        for group, value in zip(self._groups, squares, strict=True):
            found[group] = found.get(group, 0.0) + float(value)
        return found
