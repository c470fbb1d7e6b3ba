"""Watches activations, so that a loss that is not finite can be traced to the first layer."""

import contextlib

import tensorflow as tf

_watches: list[list[tuple[str, tf.Tensor]]] = []


@contextlib.contextmanager
def watch():
    """Yields a list of (layer path, [batch] float32 sums of |activation|), in call order."""
    seen: list[tuple[str, tf.Tensor]] = []
    _watches.append(seen)
    try:
        yield seen
    finally:
        _watches.pop()


def see(path: str, x_BLM) -> None:
    """Adds a layer's output to the open `watch`, if there is one.

    Args:
      path: the layer's.
      x_BLM: [batch, length, d_model].
    """
    if _watches:
        size_BLM = tf.abs(tf.cast(tf.stop_gradient(x_BLM), tf.float32))
        _watches[-1].append((path, tf.reduce_sum(size_BLM, axis=[1, 2])))
