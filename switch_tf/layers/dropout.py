"""Dropout whose mask depends only on (seed, step, layer), so a resumed run draws the same masks."""

import zlib
from collections.abc import Sequence

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.layers.base import Layer, lay_out, sizes
from switch_tf.layers.context import current_call
from switch_tf.rules import Rate, checked


def current_seed():
    """The noise seed of the current call, or a new random seed each time if it has none."""
    seed = current_call().seed
    return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32) if seed is None else seed


def layer_seed(layer) -> tf.Tensor:
    """The step's seed mixed with the layer's path, int32 [2]; random outside `step_seed`."""
    if current_call().seed is None:
        return current_seed()
    path_hash = zlib.crc32(layer.path.encode()) & 0x7FFFFFFF
    return tf.bitwise.bitwise_xor(current_seed(), tf.constant([path_hash, 0], tf.int32))


def uniform(layer, shape, axes, low: float = 0.0, high: float = 1.0):
    """Uniform float32 noise seeded by step and layer path, sharded over the mesh in use.

    It is drawn sharded over the batch's mesh dimension only and then split over the others. If
    some noise were drawn sharded over two mesh dimensions and other noise over one, DTensor
    (TensorFlow 2.20) would seed the second like the first, and replicas would differ.

    Args:
      layer: layer whose path seeds the noise.
      shape: shape of the noise.
      axes: an axis name for each dimension.
      low, high: range of the values.
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
    """In training, zeroes a fraction `rate` of its input and scales the rest by 1 / (1 - rate).

    Args:
      rate: fraction of values dropped, in [0, 1). 0 is usual in pre-training, 0.1 in fine-tuning,
        0.4 inside the experts in fine-tuning (paper, Table 4).
      broadcast_axes: axes along which the mask is shared, as in T5: the length (1) of activations,
        the queries (2) of attention weights.

    Raises:
      UserError: the rate is not in [0, 1).
    """

    def __init__(self, rate: Rate = 0.0, broadcast_axes: Sequence[int] = (), **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.broadcast_axes = tuple(broadcast_axes)

    def call(self, x, axes, training=False):
        """Applies dropout in training.

        Args:
          x: [batch, length, ...].
          axes: an axis name for each dimension, by which the noise is sharded.
          training: whether to drop values; if False, x is returned as it is.

        Returns:
          Same shape as x.
        """
        if not training or self.rate == 0.0:
            return x
        shape = [1 if i in self.broadcast_axes else n for i, n in enumerate(sizes(x))]
        noise = uniform(self, shape, axes)
        keep = tf.cast(noise >= self.rate, x.dtype)
        return x * keep * tf.cast(1.0 / (1.0 - self.rate), x.dtype)

    def compute_output_shape(self, input_shape):
        """The same shape."""
        return tuple(input_shape)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {
            "rate": self.rate,
            "broadcast_axes": self.broadcast_axes,
        }
