"""Norms of gradients, updates and weights, by groups of layers."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib

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
    """Norms of the gradients, updates and weights of a compiled step.

    The step sums squares on each device, and a separate function adds up the devices: a further
    all-reduce within the step would be merged with those of the gradients, and change the order
    in which they are added.

    Args:
      variables: the trainable variables.
    """

    def __init__(self, variables: Sequence[keras.Variable]):
        self._variables = list(variables)
        # Tensors with the same shards are stacked, since each that is handed over takes time.
        self._alike: dict[tuple, list[int]] = {}
        for number, variable in enumerate(self._variables):
            shards = tuple((variable.shape[a], spec) for a, spec in _sharded(variable).items())
            self._alike.setdefault(shards, []).append(number)
        self._add_up = tf.function(self._trace_add_up, autograph=False)

    def squares(
        self, gradients: Sequence[tf.Tensor], updates: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """Sums of squares of gradients, updates and weights, over the axes that are not sharded.

        Args:
          gradients: one per variable, before any clipping.
          updates: what was subtracted from the variables.
        """
        weights = [variable.value.read_value() for variable in self._variables]
        return [
            tf.stack(
                [
                    self._squares(kind[n], n)
                    for kind in (gradients, updates, weights)
                    for n in numbers
                ]
            )
            for numbers in self._alike.values()
        ]

    def by_group(self, squares: Sequence[tf.Tensor]) -> dict[str, dict[str, float]]:
        """ "gradient", "update" and "weight" -> group, and "all" -> Euclidean norm.

        Args:
          squares: the result of `squares`.
        """
        sums = iter(mesh_lib.to_numpy(self._add_up(squares)).astype(float).tolist())
        found = {kind: {_ALL: 0.0} for kind in _KINDS}
        for numbers in self._alike.values():
            for kind in _KINDS:
                for number in numbers:
                    group, value = group_of(self._variables[number].path), next(sums)
                    for name in (_ALL, group):
                        found[kind][name] = found[kind].get(name, 0.0) + value
        return {
            kind: {name: float(np.sqrt(value)) for name, value in sorted(groups.items())}
            for kind, groups in found.items()
        }

    def _squares(self, tensor, number: int):
        variable = self._variables[number]
        axes = [axis for axis in range(len(variable.shape)) if axis not in _sharded(variable)]
        return tf.reduce_sum(tf.square(tf.cast(tensor, tf.float32)), axes)

    def _trace_add_up(self, squares):
        return tf.concat([tf.reduce_sum(x, list(range(1, len(x.shape)))) for x in squares], axis=0)


def _sharded(variable: keras.Variable) -> dict[int, str]:
    """Axis -> mesh dimension, of the axes of a variable that are sharded."""
    layout = getattr(variable.value, "layout", None)
    specs = layout.sharding_specs if layout is not None else ()
    return {axis: spec for axis, spec in enumerate(specs) if layout.num_shards(axis) > 1}
