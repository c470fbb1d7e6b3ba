"""Micro-batches: gradients are summed part by part, to save memory for activations."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from switch_tf.data.batch_shape import check_parts
from switch_tf.layers.base import lay_out
from switch_tf.mesh import Mesh
from switch_tf.optimizers.base import zeros_like


class Microbatches:
    """Splits batches into parts and sums their gradients, sharded like the variables.

    Args:
      count: number of parts.
      mesh: the mesh in use.
      variables: the trainable variables.
    """

    def __init__(self, count: int, mesh: Mesh, variables: Sequence[keras.Variable]):
        self.count = count
        self.sums = [zeros_like(v.value, f"{v.path}/gradient") for v in variables]
        self._ways = mesh.ways("batch")

    def part(self, features: dict, index) -> dict:
        """The features of one part, with an equal share of each device's examples.

        No examples are sent between devices.

        Args:
          features: the features of a batch, each [batch, length].
          index: int32 scalar, index of the part.

        Raises:
          UserError: the batch does not divide into such parts.
        """
        check_parts(next(iter(features.values())).shape[0], self.count, self._ways)
        return {name: self._part(x_BL, index) for name, x_BL in features.items()}

    def _part(self, x_BL, index):
        batch, length = x_BL.shape
        each = batch // self._ways // self.count
        x_WPBL = tf.reshape(x_BL, [self._ways, self.count, each, length])
        chosen_P = tf.one_hot(index, self.count, dtype=tf.float32)
        # A product, not a gather; float32 represents ids exactly.
        x_WBL = tf.einsum("WPBL,P->WBL", tf.cast(x_WPBL, tf.float32), chosen_P)
        if x_BL.dtype.is_integer:
            x_WBL = tf.cast(tf.round(x_WBL), x_BL.dtype)
        x_BL = tf.reshape(x_WBL, [self._ways * each, length])
        return lay_out(x_BL, ("batch", None))

    def add(self, gradients: Sequence[tf.Tensor]) -> None:
        """Adds the gradients of a part."""
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign_add(tf.cast(tf.convert_to_tensor(gradient), tf.float32), read_value=False)

    def are_finite(self) -> tf.Tensor:
        """Whether all sums are finite, bool scalar."""
        sizes = [tf.reduce_sum(tf.abs(total.read_value())) for total in self.sums]
        return tf.math.is_finite(tf.add_n(sizes))

    def drop(self) -> None:
        """Resets the sums to zero."""
        self.take()

    def take(self) -> list[tf.Tensor]:
        """Returns the sums and resets them to zero."""
        values = [tf.identity(total.read_value()) for total in self.sums]
        for total, value in zip(self.sums, values, strict=True):
            # Do not subtract the value from itself: non-finite values would stay.
            total.assign(tf.zeros_like(value), read_value=False)
        return values
