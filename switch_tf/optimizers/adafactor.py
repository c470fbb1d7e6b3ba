"""Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), as Mesh-TensorFlow implements it.

The paper trains with it (Sec. 2). For a variable W with gradient G at the 0-based step t, with
β = 1 - (t + 1)^-0.8:

  V = β V + (1 - β)(G² + ε1)                        second moment
  U = G / sqrt(V)                                   update
  W = W - α(t) · max(ε2, RMS(W)) · U / max(1, RMS(U) / d)

If the two largest axes of a variable both have at least `min_dim_size_to_factor` elements, V is
factored: only its means over each of the two, R and C, are kept, and V = R C / mean(R). The other
axes are treated as a batch. Axes grouped in `axis_groups`, such as heads and d_kv of attention
kernels, count as one axis, as in Mesh-TensorFlow's weights. The RMS is over the whole variable, so
all experts of a layer share one scale and one clipping factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf.optimizers.base import (
    Groups,
    Optimizer,
    axis_groups,
    moving_average,
    sums_of_squares,
)
from switch_tf.optimizers.schedules import Schedule, not_given
from switch_tf.rules import NonNegative, Positive, Rate, Whole, configurable

# Elements on a device of a variable that is updated as soon as its gradient is there: 4 MB.
_LARGE = 1 << 20


@configurable
class Adafactor(Optimizer):
    """Adafactor for variables that may be sharded over a mesh.

    Slots: `v`, of the variable's shape; or if factored `vr` and `vc`, without its largest and
    without its second largest axis; and, if `beta1` > 0, `m`, of the variable's shape.
    """

    def __init__(
        self,
        learning_rate: Schedule = not_given,
        decay_exponent: NonNegative = 0.8,
        beta1: Rate = 0.0,
        clipping_threshold: Positive | None = 1.0,
        global_norm_clip_threshold: Positive | None = None,
        multiply_by_parameter_scale: bool = True,
        factored: bool = True,
        min_dim_size_to_factor: Whole = 128,
        epsilon1: NonNegative = 1e-30,
        epsilon2: NonNegative = 1e-3,
    ):
        """Configures the update; `build` creates the slots. Defaults are those of Mesh-TensorFlow.

        Args:
          learning_rate: α, a schedule; see `schedules`. T5 pre-trains with `rsqrt` and fine-tunes
            with a constant 0.001.
          decay_exponent: c in β = 1 - (t + 1)^-c; higher values average V over more steps.
            Mesh-TensorFlow's `adafactor_decay_rate_pow`.
          beta1: momentum of the update, in [0, 1). Above 0, it costs a slot as large as each
            variable; keep 0 to save memory.
          clipping_threshold: d, which bounds the RMS of an update; None turns it off. Keep
            1.0: it guards against a V that lags behind growing gradients.
          global_norm_clip_threshold: see `Optimizer`. Rarely needed here, as updates hardly depend
            on the scale of gradients.
          multiply_by_parameter_scale: makes the learning rate relative to the RMS of each weight.
            If False, max(ε2, RMS(W)) is left out, and far smaller learning rates are needed.
          factored: False keeps the full second moment of each variable, which costs as much memory
            as the weights.
          min_dim_size_to_factor: smallest size of the second largest axis for V to be factored.
            Lower values save little, because such variables are usually small.
          epsilon1: ε1, which keeps V above zero.
          epsilon2: ε2, the smallest scale, which lets weights near zero grow.

        Raises:
          UserError: no `learning_rate` is given.
        """
        super().__init__(learning_rate, global_norm_clip_threshold)
        self._decay_exponent = decay_exponent
        self._beta1 = beta1
        self._clipping_threshold = clipping_threshold
        self._multiply_by_parameter_scale = multiply_by_parameter_scale
        self._factored = factored
        self._min_dim_size_to_factor = min_dim_size_to_factor
        self._epsilon1 = epsilon1
        self._epsilon2 = epsilon2

    def slot_axes(self, shape: tuple[int, ...], groups: Groups) -> dict[str, list[int]]:
        """`v`, or `vr` and `vc` if factored; and `m` if there is momentum."""
        everything = list(range(len(shape)))
        axes = self._factored_axes(shape, groups)
        kept = {"v": everything}
        if axes is not None:
            largest, second = axes
            kept = {
                "vr": [axis for axis in everything if axis not in largest],
                "vc": [axis for axis in everything if axis not in second],
            }
        return kept | ({"m": everything} if self._beta1 else {})

    def updates(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> list[tf.Tensor]:
        """Updates the slots and returns what to subtract from each variable."""
        return self.updates_and_squares(gradients, variables, step)[0]

    def updates_and_squares(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Updates the slots and returns what to subtract, and the sums of squares.

        Memory is what limits an update of many experts, so RMS(U) is computed from G² and the
        factors of V before U is made, and the scalar factors are multiplied into a factor of V.
        A large variable waits for no other's gradient, so that not all gradients are held at the
        same time: on one device, where nothing but the update needs them together, as clipping by
        the global norm does. On a mesh, DTensor sums gradients of all devices together. Scalars of
        the others are computed at once: for small models, the cost of an update is the number of
        ops times the number of devices.
        """
        mixing = (step + 1.0) ** -self._decay_exponent
        rate = self.learning_rate(step)
        updates, squares = {}, {}
        for indices in _apart(variables):
            chosen = [(gradients[index], variables[index]) for index in indices]
            made, of_made = self._updates_at_once(chosen, mixing, rate)
            updates |= zip(indices, made, strict=True)
            squares |= zip(indices, tf.unstack(of_made, axis=1), strict=True)
        order = range(len(variables))
        return [updates[i] for i in order], tf.stack([squares[i] for i in order], axis=1)

    def _updates_at_once(
        self, chosen: Sequence[tuple[tf.Tensor, keras.Variable]], mixing, rate
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """`updates_and_squares` of some gradients and their variables.

        Args:
          chosen: gradients with their variables.
          mixing: 1 - β.
          rate: α.
        """
        made = [self._precondition(gradient, variable, mixing) for gradient, variable in chosen]
        weights = [tf.cast(variable.value, tf.float32) for _, variable in chosen]
        of_gradients = tf.stack([each.gradient_squares for each in made])
        of_updates = tf.stack([each.squares for each in made])
        of_weights = sums_of_squares(weights)
        sizes = [float(weight.shape.num_elements()) for weight in weights]
        factors = self._factors(of_updates / sizes, of_weights / sizes, rate)
        updates = [each.times(f) for each, f in zip(made, tf.unstack(factors), strict=True)]
        of_updates *= tf.square(factors)
        if self._beta1:
            updates = [
                self._with_momentum(update, self.slots_of(variable)["m"])
                for update, (_, variable) in zip(updates, chosen, strict=True)
            ]
            of_updates = sums_of_squares(updates)
        return updates, tf.stack([of_gradients, of_updates, of_weights])

    def _with_momentum(self, update, momentum):
        update = self._beta1 * momentum + (1.0 - self._beta1) * update
        momentum.assign(update, read_value=False)
        return update

    def _factored_axes(self, shape: tuple[int, ...], groups: Groups) -> Groups | None:
        """The largest and the second largest group of axes; of equals, the first.

        Returns None if the variable is not factored.
        """
        if not self._factored or len(groups) < 2:
            return None
        size = {group: math.prod(shape[axis] for axis in group) for group in groups}
        largest, second = sorted(groups, key=lambda group: -size[group])[:2]
        return (largest, second) if size[second] >= self._min_dim_size_to_factor else None

    def _precondition(self, gradient, variable, mixing) -> _Preconditioned:
        """Updates V with `mixing` = 1 - β, and returns U = G / sqrt(V) in its factors."""
        slots = self.slots_of(variable)
        if "v" in slots:
            squared = tf.square(gradient) + self._epsilon1
            update = gradient * tf.math.rsqrt(moving_average(slots["v"], squared, mixing))
            squares = (2.0 * tf.nn.l2_loss(x) for x in (gradient, update))
            return _Preconditioned(update, (), *squares)
        squared = tf.square(gradient)
        largest, second = self._factored_axes(tuple(gradient.shape), axis_groups(variable))
        means = tf.reduce_mean(squared, largest)
        # ε1 is added to the means, which gives the same result on smaller tensors.
        vr = moving_average(slots["vr"], means + self._epsilon1, mixing)
        # Indices of the second largest axis once the largest is removed.
        second_in_vr = [axis - sum(gone < axis for gone in largest) for axis in second]
        mean = tf.reduce_mean(vr, second_in_vr, keepdims=True)
        # R / mean(R) first, because R · C alone could exceed float32's range.
        rows = tf.math.rsqrt(vr / mean)
        # One pass over G² for the sums that C needs and for those that RMS(U) needs.
        weights = tf.stack([tf.ones_like(rows), tf.square(rows)])
        sums, weighted_sums = tf.unstack(_weighted_sums(squared, weights, second, largest))
        in_second = math.prod(gradient.shape[axis] for axis in second)
        vc = moving_average(slots["vc"], sums / in_second + self._epsilon1, mixing)
        columns = tf.math.rsqrt(vc)
        return _Preconditioned(
            gradient,
            (_spread(rows, largest), _spread(columns, second)),
            tf.reduce_sum(means) * math.prod(gradient.shape[axis] for axis in largest),
            tf.reduce_sum(weighted_sums * tf.square(columns)),
        )

    def _factors(self, update_means, weight_means, learning_rate) -> tf.Tensor:
        """α · max(ε2, RMS(W)) / max(1, RMS(U) / d), one scalar per variable.

        Args:
          update_means, weight_means: the mean squares of U and W, [number of variables].
          learning_rate: α.
        """
        factors = tf.fill(weight_means.shape, learning_rate)
        if self._multiply_by_parameter_scale:
            factors *= tf.maximum(tf.sqrt(weight_means), self._epsilon2)
        if self._clipping_threshold is not None:
            factors /= tf.maximum(tf.sqrt(update_means) / self._clipping_threshold, 1.0)
        return factors


def _apart(variables: Sequence[keras.Variable]) -> list[list[int]]:
    """Indices of variables: each large one by itself, and all others together."""
    large = [i for i, variable in enumerate(variables) if _elements(variable.value) >= _LARGE]
    small = [i for i in range(len(variables)) if i not in set(large)]
    return [[i] for i in large] + ([small] if small else [])


def _elements(value) -> int:
    """Number of elements on a device."""
    if isinstance(value, dtensor.DVariable):
        return math.prod(value.layout.local_shape_from_global_shape(list(value.shape)))
    return value.shape.num_elements()


class _Preconditioned(NamedTuple):
    """U = G / sqrt(V), not yet multiplied out if V is factored.

    Attributes:
      tensor: U, or G if V is factored.
      factors: what to multiply G by, of a size of 1 along some axes; none if `tensor` is U.
      gradient_squares: the sum of squares of G.
      squares: the sum of squares of U.
    """

    tensor: tf.Tensor
    factors: tuple[tf.Tensor, ...]
    gradient_squares: tf.Tensor
    squares: tf.Tensor

    def times(self, scalar) -> tf.Tensor:
        """U · scalar."""
        if not self.factors:
            return self.tensor * scalar
        first, *others = self.factors
        update = self.tensor * (first * scalar)
        for factor in others:
            update *= factor
        return update


def _weighted_sums(x, weights, summed: tuple[int, ...], missing: tuple[int, ...]):
    """The sums of x · weights over the axes `summed`, for each of the first axis of weights.

    The other axes of weights are those of x without the axes `missing`.
    """
    names = "abcdefgh"[: len(x.shape)]
    of_weights, of_sum = (
        "".join(name for axis, name in enumerate(names) if axis not in without)
        for without in (missing, summed)
    )
    # In this order the few rows of weights are the left operand of a product, which is faster.
    return tf.einsum(f"z{of_weights},{names}->z{of_sum}", weights, x)


def _spread(x, axes: tuple[int, ...]):
    """Inserts axes of size 1 into x where a mean has removed them."""
    for axis in sorted(axes):
        x = tf.expand_dims(x, axis)
    return x
