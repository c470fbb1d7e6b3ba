"""Datasets traced without AutoGraph where they can be."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def without_autograph(build: Callable[[], T]) -> T:
    """`build()`, of a `tf.data` pipeline, whose functions AutoGraph rewrites only if they need it.

    AutoGraph reads and rewrites the source of every function that a dataset maps, those of SeqIO
    and T5 among them: span corruption takes six times as long to build with it, seconds of each
    start. A function with a Python condition or loop over a tensor raises TypeError as it is
    traced without it, and everything is built again, with it.

    Args:
      build: makes the pipeline; called a second time if a function needs AutoGraph.

    Returns:
      What `build` returns.
    """
    import tensorflow as tf

    try:
        return tf.autograph.experimental.do_not_convert(build)()
    except TypeError:
        return build()
