"""Named figures of a compiled step, packed into the one vector that it returns."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# How the figures of a batch are computed from those of its parts, [parts, figures].
_COMBINED = {
    "sum": lambda parts: parts.sum(axis=0),
    "mean": lambda parts: parts.mean(axis=0),
    "max": lambda parts: parts.max(axis=0),
    "first": lambda parts: parts[0],
}


class _Figure(NamedTuple):
    group: str
    name: str
    columns: slice
    is_scalar: bool
    combined: str


class Figures:
    """Collects figures by name while a step is traced, and reads them from the vector it returns.

    There is one vector because each tensor read from a mesh costs a round trip to its devices.
    Each trace fills a `Figures` of its own:

        figures = Figures()
        figures.add("step", "sum", {"loss": loss, "tokens": tokens})  # in the compiled function,
        return figures.pack()                                         # at its end
        ...
        figures.unpack(to_numpy(vector))["step"]["loss"]              # on the host

    Figures are organised in named groups. `combined` says how the figure of a batch is computed
    from those of its parts: "sum", "mean" or "max" over the parts, or "first" if all parts share
    the same value.
    """

    def __init__(self):
        self._figures: list[_Figure] = []
        self._tensors: list[tf.Tensor] = []
        self._constants: dict[str, dict] = {}
        self._size = 0

    def add(self, group: str, combined: str, scalars: Mapping[str, tf.Tensor]) -> None:
        """Adds scalars by name.

        Args:
          group: name of their group.
          combined: "sum", "mean", "max" or "first".
          scalars: name -> scalar tensor, all of the same dtype.
        """
        vector = tf.stack(list(scalars.values()))
        self.add_vector(group, combined, dict.fromkeys(scalars), vector)

    def add_vector(
        self, group: str, combined: str, widths: Mapping[str, int | None], vector: tf.Tensor
    ) -> None:
        """Adds a vector that holds several figures, so that a mesh reduces them all at once.

        Args:
          group, combined: same as in `add`.
          widths: name -> number of elements, None for a scalar; in the order of the vector.
          vector: float32.

        Raises:
          ValueError: unknown `combined`.
        """
        if combined not in _COMBINED:
            raise ValueError(f"combined='{combined}' is not one of {', '.join(_COMBINED)}")
        for name, width in widths.items():
            columns = slice(self._size, self._size + (1 if width is None else width))
            self._figures.append(_Figure(group, name, columns, width is None, combined))
            self._size = columns.stop
        self._tensors.append(vector)

    def add_constants(self, group: str, **constants) -> None:
        """Adds values known on the host, which `unpack` returns with the figures of the group."""
        self._constants.setdefault(group, {}).update(constants)

    def pack(self) -> tf.Tensor:
        """Returns all figures in one vector, in the order in which they were added."""
        tensors, self._tensors = self._tensors, []
        return tf.concat(tensors, axis=0)

    def combine(self, parts: np.ndarray) -> np.ndarray:
        """Combines the vectors of a batch's parts, [parts, figures], into the batch's vector."""
        found = {name: combined(parts) for name, combined in _COMBINED.items()}
        return np.concatenate([found[f.combined][f.columns] for f in self._figures])

    def unpack(self, vector: np.ndarray) -> dict[str, dict]:
        """Returns group -> name -> figure: a float, an array [width], or a constant."""
        groups = {group: dict(constants) for group, constants in self._constants.items()}
        for f in self._figures:
            values = vector[f.columns]
            groups.setdefault(f.group, {})[f.name] = values.item() if f.is_scalar else values
        return groups
