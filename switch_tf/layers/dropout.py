"""Dropout whose mask is a function of (seed, step, layer), so that a resumed run draws the same."""

import zlib
from collections.abc import Sequence

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.layers.base import Layer, lay_out, sizes
from switch_tf.layers.context import current_call
from switch_tf.rules import Rate, checked


def current_seed():
    """The seed of the call; where it has none, a new one each time."""
    seed = current_call().seed
    return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32) if seed is None else seed


def layer_seed(layer) -> tf.Tensor:
    """int32 [2]: the step's seed with the layer's path mixed in; random outside `step_seed`."""
    if current_call().seed is None:
        return current_seed()
    path_hash = zlib.crc32(layer.path.encode()) & 0x7FFFFFFF
    return tf.bitwise.bitwise_xor(current_seed(), tf.constant([path_hash, 0], tf.int32))


def uniform(layer, shape, axes, low: float = 0.0, high: float = 1.0):
    """Noise from the step's seed and the layer's path, float32, laid out over the mesh in use.

    Drawn by the batch's mesh dimension alone, and cut by the others after that. Were one noise
    drawn by two dimensions and another by one, DTensor (TensorFlow 2.20) would seed the second as
    the first, and devices that should hold the same noise would not.

    Args:
      layer: whose path it is.
      shape: of the noise.
      axes: an axis name for each dimension.
      low, high: its range.
    """
    noise = tf.random.stateless_uniform(shape, layer_seed(layer), low, high)
    mesh = mesh_lib.current()
    if mesh is None:
        return noise
    axes = [None if n == 1 else axis for axis, n in zip(axes, shape, strict=True)]
    by_batch = mesh.rules.get("batch", "")
    first = [axis if mesh.rules.get(axis) == by_batch else None for axis in axes]
    return lay_out(lay_out(noise, first), axes)


@checked
class Dropout(Layer):
    """Sets a share `rate` of its input to zero in training and scales the rest by 1 / (1 - rate).

    Args:
      rate: share of values dropped, in [0, 1).
      broadcast_axes: axes along which one mask serves all places, as in T5: the length (1) of
        activations, the queries (2) of attention weights.

    Raises:
      UserError: a rate that cannot be.
    """

    def __init__(self, rate: Rate = 0.0, broadcast_axes: Sequence[int] = (), **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.broadcast_axes = tuple(broadcast_axes)

    def call(self, x, axes, training=False):
        """Drops values.

        Args:
          x: any shape [batch, length, ...].
          axes: an axis name for each dimension, by which the noise is laid out.
          training: False: x itself.

        Returns:
          The shape of x.
        """
        if not training or self.rate == 0.0:
            return x
        shape = [1 if i in self.broadcast_axes else n for i, n in enumerate(sizes(x))]
        noise = uniform(self, shape, axes)
        keep = tf.cast(noise >= self.rate, x.dtype)
        return x * keep * tf.cast(1.0 / (1.0 - self.rate), x.dtype)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {
            "rate": self.rate,
            "broadcast_axes": self.broadcast_axes,
        }
