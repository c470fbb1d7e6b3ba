"""Named figures of a compiled step, in the one vector that it returns."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# How a batch's figures follow from those of its parts, [parts, figures].
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
    """Gathers figures by name while a step is traced, and finds them in the vector it returned.

    One vector, because each tensor read from a mesh costs a round trip to its devices. Each trace
    fills one of its own:

        figures = Figures()
        figures.add("step", "sum", {"loss": loss, "tokens": tokens})  # in the compiled function,
        return figures.pack()                                         # at its end
        ...
        figures.unpack(to_numpy(vector))["step"]["loss"]              # on the host

    Figures come in groups, which have names, too. `combined` says how the figure of a batch follows
    from those of its parts: "sum", "mean" or "max" over the parts, or "first" for what all share.
    """

    def __init__(self):
        self._figures: list[_Figure] = []
        self._tensors: list[tf.Tensor] = []
        self._constants: dict[str, dict] = {}
        self._size = 0

    def add(self, group: str, combined: str, scalars: Mapping[str, tf.Tensor]) -> None:
        """Adds scalars by name.

        Args:
          group: whose they are.
          combined: "sum", "mean", "max" or "first".
          scalars: of one dtype.
        """
        vector = tf.stack(list(scalars.values()))
        self.add_vector(group, combined, dict.fromkeys(scalars), vector)

    def add_vector(
        self, group: str, combined: str, widths: Mapping[str, int | None], vector: tf.Tensor
    ) -> None:
        """Adds a vector that holds several figures, so that a mesh reduces them all at once.

        Args:
          group, combined: as `add` has them.
          widths: name -> its number of elements, None for a scalar; in the vector's order.
          vector: float32.

        Raises:
          ValueError: `combined` is none of these.
        """
        if combined not in _COMBINED:
            raise ValueError(f"combined='{combined}' is none of {', '.join(_COMBINED)}")
        for name, width in widths.items():
            columns = slice(self._size, self._size + (1 if width is None else width))
            self._figures.append(_Figure(group, name, columns, width is None, combined))
            self._size = columns.stop
        self._tensors.append(vector)

    def add_constants(self, group: str, **constants) -> None:
        """Adds what the host knows, to be given back with the figures of the group."""
        self._constants.setdefault(group, {}).update(constants)

    def pack(self) -> tf.Tensor:
        """All figures in one vector, in the order in which they were added."""
        tensors, self._tensors = self._tensors, []
        return tf.concat(tensors, axis=0)

    def combine(self, parts: np.ndarray) -> np.ndarray:
        """The vector of a batch by those of its parts, [parts, figures]."""
        found = {name: combined(parts) for name, combined in _COMBINED.items()}
        return np.concatenate([found[f.combined][f.columns] for f in self._figures])

    def unpack(self, vector: np.ndarray) -> dict[str, dict]:
        """Group -> name -> figure: a float, an array [width], or the constant."""
        groups = {group: dict(constants) for group, constants in self._constants.items()}
        for f in self._figures:
            values = vector[f.columns]
            groups.setdefault(f.group, {})[f.name] = values.item() if f.is_scalar else values
        return groups
