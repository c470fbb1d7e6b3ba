"""Products of tensors in a layer's compute dtype, which sum in float32 on every processor."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.eager import record

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
    if (terms := _terms(equation)) is None:
        return tf.einsum(equation, *operands)
    of_a, of_b, of_y = terms
    if _first(of_b, of_y, without=of_a) < _first(of_b, of_a, without=of_y):
        return tf.einsum(equation, *operands)
    # Of a variable, the value that it has now.
    a, b = map(tf.convert_to_tensor, operands)
    # The operations of a step are told apart by their scopes.
    scope = f"gradient_tape/{tf.get_current_name_scope()}/"

    def gradient(dy):
        with tf.name_scope(scope):
            da = tf.einsum(f"{of_y},{of_b}->{of_a}", dy, b)
            return da, tf.einsum(f"{of_a},{of_y}->{of_b}", a, dy)

    # `tf.custom_gradient` would keep each graph that it is traced in for good, add an operation
    # behind which a mesh rounds bfloat16 otherwise, and keep exported models from being trained.
    # Where no tape sees this, as in a model that is loaded, the gradient is TensorFlow's own.
    with record.stop_recording():
        y = tf.einsum(equation, a, b)
    record.record_operation("Einsum", [y], [a, b], gradient)
    return y


def _terms(equation: str) -> tuple[str, str, str] | None:
    """The axes of both operands and of the result; None if each must not be in two of them."""
    of_operands, _, of_y = equation.replace(" ", "").partition("->")
    of_a, of_b = of_operands.split(",")
    terms = (set(of_a), set(of_b), set(of_y))
    is_plain = "." not in equation and all(
        sum(axis in term for term in terms) > 1 for axis in set.union(*terms)
    )
    return (of_a, of_b, of_y) if is_plain else None


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
