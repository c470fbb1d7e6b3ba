"""Traces datasets without AutoGraph where possible."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def without_autograph(build: Callable[[], T]) -> T:
    """Calls `build`, which makes a `tf.data` pipeline, using AutoGraph only if it is needed.

    AutoGraph reads and rewrites the source of every function that a dataset maps, including those
    of SeqIO and T5: it makes span corruption take six times as long to build, seconds of each
    start. Without it, tracing a function with a Python condition or loop over a tensor raises
    TypeError; everything is then built again with AutoGraph.

    Args:
      build: makes the pipeline; called again if a function needs AutoGraph.

    Returns:
      The result of `build`.
    """
    import tensorflow as tf

    try:
        return tf.autograph.experimental.do_not_convert(build)()
    except TypeError:
        return build()
