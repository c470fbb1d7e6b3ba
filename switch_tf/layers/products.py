"""Products of tensors in a layer's compute dtype, which sum in float32 on every processor."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from switch_tf import runtime

_as_on_accelerators = False


def product(equation: str, *operands):
    """`tf.einsum` of operands of one dtype, whose sums are float32 even if that is bfloat16.

    So they are on accelerators, and on CPUs for which oneDNN has kernels (with AVX512). Without
    these, TensorFlow 2.20 sums in bfloat16: products over 256 terms have ten times the error of one
    rounding, and take 17 times as long as in float32 (measured with AVX2). There, bfloat16 operands
    are multiplied in float32, and the result is rounded.

    Args:
      equation: see `tf.einsum`.
      *operands: tensors.
    """
    dtype = operands[0].dtype
    if dtype != tf.bfloat16 or _as_on_accelerators or not runtime.lacks_bfloat16():
        return tf.einsum(equation, *operands)
    exact = (tf.cast(operand, tf.float32) for operand in operands)
    return tf.cast(tf.einsum(equation, *exact), dtype)


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Context in which products are traced as for an accelerator, to see what it would do."""
    global _as_on_accelerators
    before, _as_on_accelerators = _as_on_accelerators, True
    try:
        yield
    finally:
        _as_on_accelerators = before
