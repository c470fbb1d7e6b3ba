"""Products of tensors in a layer's compute dtype, which sum in float32 on every processor."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from switch_tf import runtime

_as_on_accelerators = False

# Elements of an operand from which its gradient is made here. Transposing fewer takes less than it
# costs to trace a gradient of our own.
_LARGE = 1 << 20


def product(equation: str, *operands):
    """`tf.einsum` of operands of one dtype, whose sums are float32 even if that is bfloat16.

    So they are on accelerators, and on CPUs for which oneDNN has kernels (with AVX512). Without
    these, TensorFlow 2.20 sums in bfloat16: products over 256 terms have ten times the error of one
    rounding, and take 17 times as long as in float32 (measured with AVX2). There, bfloat16 operands
    are multiplied in float32, and the result is rounded.

    The gradient of a large second operand, such as the experts' weights, is made as it lies in
    memory. TensorFlow's own swaps the operands of x_GM w_MF for that of w, and then transposes the
    [F, M] that it gets: with 128 experts on CPU, that is a sixth of the step.

    Args:
      equation: see `tf.einsum`.
      *operands: tensors.
    """
    dtype = operands[0].dtype
    if dtype != tf.bfloat16 or _as_on_accelerators or not runtime.lacks_bfloat16():
        return _einsum(equation, *operands)
    exact = (tf.cast(operand, tf.float32) for operand in operands)
    return tf.cast(_einsum(equation, *exact), dtype)


def _einsum(equation: str, *operands):
    """`tf.einsum`, whose gradient for a large second operand needs no transpose."""
    if len(operands) != 2 or (operands[1].shape.num_elements() or 0) < _LARGE:
        return tf.einsum(equation, *operands)
    of_operands, of_y = equation.split("->")
    of_a, of_b = of_operands.split(",")
    if _first(of_b, of_y, without=of_a) < _first(of_b, of_a, without=of_y):
        return tf.einsum(equation, *operands)
    # The operations of a step are told apart by their scopes.
    scope = f"gradient_tape/{tf.get_current_name_scope()}/"

    @tf.custom_gradient
    def multiply(a, b):
        def gradient(dy):
            with tf.name_scope(scope):
                da = tf.einsum(f"{of_y},{of_b}->{of_a}", dy, b)
                return da, tf.einsum(f"{of_a},{of_y}->{of_b}", a, dy)

        return tf.einsum(equation, a, b), gradient

    return multiply(*operands)


def _first(axes: str, operand: str, without: str) -> int:
    """Place among `axes` of the first that is the operand's and not one of `without`."""
    places = (axes.index(axis) for axis in operand if axis in axes and axis not in without)
    return min(places, default=len(axes))


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Context in which products are traced as for an accelerator, to see what it would do."""
    global _as_on_accelerators
    before, _as_on_accelerators = _as_on_accelerators, True
    try:
        yield
    finally:
        _as_on_accelerators = before
