"""Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), with the choices of Mesh-TensorFlow.

The paper trains with it (Sec. 2). In its letters, for a variable W with gradient G at the 0-based
step t, with β = 1 - (t + 1)^-0.8:

  V = β V + (1 - β)(G² + ε1)                        second moment
  U = G / sqrt(V)                                   update
  W = W - α(t) · max(ε2, RMS(W)) · U / max(1, RMS(U) / d)

A variable whose two largest axes both reach `min_dim_size_to_factor` keeps only V's means over
each of the two, R and C, and V is taken as R C / mean(R); the other axes are a batch. Axes that the
variable says count as one (`axis_groups`), such as heads and d_kv of attention's kernels, are one
here, as they are in Mesh-TensorFlow's weights. RMS is over the whole variable: all experts of a
layer share one scale and one clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import gin
import keras
import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf.errors import UserError
from switch_tf.optimizers.schedules import Schedule

# Dimensions of a variable, those together that count as one axis.
Groups = tuple[tuple[int, ...], ...]


def axis_groups(variable: keras.Variable) -> Groups:
    """The variable's own, as `layers.base.Layer.weight` gives it; else each axis by itself."""
    return getattr(variable, "axis_groups", None) or _each(len(variable.shape))


def _each(rank: int) -> Groups:
    return tuple((axis,) for axis in range(rank))


@gin.configurable
class Adafactor(tf.Module):
    """Adafactor over variables that may be laid out over a mesh.

    Attributes:
      slots: `<variable path>/<kind>` -> float32 variable of zeros at first. Kinds: `v`, shape and
        layout of the variable; or `vr` and `vc`, the variable without its largest and without its
        second largest axis, laid out as what remains; and `m` like the variable if `beta1` > 0.
        `tf.train.Checkpoint(optimizer=adafactor)` saves them by these names.
    """

    def __init__(
        self,
        learning_rate: Schedule,
        decay_exponent: float = 0.8,
        beta1: float = 0.0,
        clipping_threshold: float | None = 1.0,
        global_norm_clip_threshold: float | None = None,
        multiply_by_parameter_scale: bool = True,
        factored: bool = True,
        min_dim_size_to_factor: int = 128,
        epsilon1: float = 1e-30,
        epsilon2: float = 1e-3,
    ):
        """Chooses the update; `build` makes the slots.

        Args:
          learning_rate: α, a function of the step as in `schedules`.
          decay_exponent: 0.8 of β above; Mesh-TF's `adafactor_decay_rate_pow`.
          beta1: momentum of the update, in [0, 1); 0 keeps no slot for it.
          clipping_threshold: d above; None does not clip.
          global_norm_clip_threshold: gradients whose norm, of all variables together, is above it
            are scaled down to it first; None does not (T5X's name).
          multiply_by_parameter_scale: False leaves max(ε2, RMS(W)) out.
          factored: False keeps the whole second moment of every variable.
          min_dim_size_to_factor: smallest second largest axis that is factored.
          epsilon1: ε1 above.
          epsilon2: ε2 above.

        Raises:
          UserError: `learning_rate` is not a function, or `beta1` is outside [0, 1).
        """
        super().__init__(name="adafactor")
        if not callable(learning_rate):
            raise UserError(
                f"Adafactor.learning_rate={learning_rate!r} is not a schedule: give "
                "@schedules.constant(), @schedules.rsqrt() or @schedules.linear_decay()"
            )
        if not 0 <= beta1 < 1:
            raise UserError(f"Adafactor.beta1={beta1} is outside [0, 1)")
        self.learning_rate = learning_rate
        self.slots = {}
        self._decay_exponent = decay_exponent
        self._beta1 = beta1
        self._clipping_threshold = clipping_threshold
        self._global_norm_clip_threshold = global_norm_clip_threshold
        self._multiply_by_parameter_scale = multiply_by_parameter_scale
        self._factored = factored
        self._min_dim_size_to_factor = min_dim_size_to_factor
        self._epsilon1 = epsilon1
        self._epsilon2 = epsilon2

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the slots of `variables`, once and outside compiled functions.

        Raises:
          ValueError: called twice, or two variables share a path.
        """
        if self.slots:
            raise ValueError("Adafactor.build was called before")
        for variable in variables:
            kept = self.slot_axes(tuple(variable.shape), axis_groups(variable))
            for kind, kept_axes in kept.items():
                name = f"{variable.path}/{kind}"
                if name in self.slots:
                    raise ValueError(f"two variables have the path '{variable.path}'")
                self.slots[name] = _zeros(variable.value, kept_axes, name)

    def slot_axes(
        self, shape: tuple[int, ...], groups: Groups | None = None
    ) -> dict[str, list[int]]:
        """Kind of slot -> the axes of a variable of `shape` that it keeps.

        Args:
          shape: of the variable.
          groups: its `axis_groups`; None: each axis by itself.
        """
        everything = list(range(len(shape)))
        axes = self._factored_axes(shape, groups or _each(len(shape)))
        kept = {"v": everything}
        if axes is not None:
            largest, second = axes
            kept = {
                "vr": [axis for axis in everything if axis not in largest],
                "vc": [axis for axis in everything if axis not in second],
            }
        return kept | ({"m": everything} if self._beta1 else {})

    def slots_of(self, variable: keras.Variable) -> dict[str, tf.Variable]:
        """Kind (`v`, `vr`, `vc`, `m`) -> slot of one variable."""
        names = {kind: f"{variable.path}/{kind}" for kind in ("v", "vr", "vc", "m")}
        return {kind: self.slots[name] for kind, name in names.items() if name in self.slots}

    def apply(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> None:
        """Updates the variables and their slots; call it inside a compiled function.

        Scalars are computed for all variables at once: at small sizes the number of ops, times the
        number of devices, is what an update costs.

        Args:
          gradients: one a variable, of its shape.
          variables: those of `build`, or some of them.
          step: 0-based int scalar, 0 in the first update.

        Raises:
          ValueError: a variable has no gradient, or no slots.
        """
        step = tf.cast(step, tf.float32)
        mixing = (step + 1.0) ** -self._decay_exponent
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None:
                raise ValueError(f"'{variable.path}' has no gradient: leave it out of the update")
            if not self.slots_of(variable):
                raise ValueError(f"'{variable.path}' has no slots: it was not given to build")
        gradients = self._clipped([tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients])
        updates = [
            self._precondition(gradient, variable, mixing)
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        factors = self._factors(updates, variables, self.learning_rate(step))
        for update, variable, factor in zip(updates, variables, factors, strict=True):
            update *= factor
            if self._beta1:
                momentum = self.slots_of(variable)["m"]
                update = self._beta1 * momentum + (1.0 - self._beta1) * update
                momentum.assign(update, read_value=False)
            update = tf.cast(update, variable.value.dtype)
            # Subtracted in place: w = w - update would round a bfloat16 reading of w each step.
            variable.value.assign_sub(update, read_value=False)

    def _factored_axes(self, shape: tuple[int, ...], groups: Groups) -> Groups | None:
        """The largest and the second largest group of axes (the first of equals).

        None: not factored.
        """
        if not self._factored or len(groups) < 2:
            return None
        size = {group: math.prod(shape[axis] for axis in group) for group in groups}
        largest, second = sorted(groups, key=lambda group: -size[group])[:2]
        return (largest, second) if size[second] >= self._min_dim_size_to_factor else None

    def _clipped(self, gradients):
        if self._global_norm_clip_threshold is None:
            return gradients
        # Stacked before they are added: DTensor joins the all-reduces of the sums into one.
        halves = tf.stack([tf.nn.l2_loss(gradient) for gradient in gradients])
        norm = tf.sqrt(2.0 * tf.reduce_sum(halves))
        factor = tf.minimum(1.0, self._global_norm_clip_threshold / tf.maximum(norm, 1e-30))
        return [gradient * factor for gradient in gradients]

    def _precondition(self, gradient, variable, mixing):
        """U = G / sqrt(V) with V brought up to date by `mixing` = 1 - β."""
        squared, slots = tf.square(gradient), self.slots_of(variable)
        if "v" in slots:
            v = _mix(slots["v"], squared + self._epsilon1, mixing)
            return gradient * tf.math.rsqrt(v)
        largest, second = self._factored_axes(tuple(gradient.shape), axis_groups(variable))
        # ε1 is added to the means: the same sum, on the smaller tensors.
        vr = _mix(slots["vr"], tf.reduce_mean(squared, largest) + self._epsilon1, mixing)
        vc = _mix(slots["vc"], tf.reduce_mean(squared, second) + self._epsilon1, mixing)
        # The second largest axis, where it stands once the largest is gone.
        second_in_vr = [axis - sum(gone < axis for gone in largest) for axis in second]
        mean = tf.reduce_mean(vr, second_in_vr, keepdims=True)
        # R / mean(R) first: R · C alone could leave float32's range.
        rows = _spread(tf.math.rsqrt(vr / mean), largest)
        columns = _spread(tf.math.rsqrt(vc), second)
        return gradient * rows * columns

    def _factors(self, updates, variables, learning_rate) -> list[tf.Tensor]:
        """α · max(ε2, RMS(W)) / max(1, RMS(U) / d), a scalar for each variable."""
        factors = tf.fill([len(variables)], learning_rate)
        if self._multiply_by_parameter_scale:
            weights = [tf.cast(variable.value, tf.float32) for variable in variables]
            factors *= tf.maximum(_rms(weights), self._epsilon2)
        if self._clipping_threshold is not None:
            factors /= tf.maximum(_rms(updates) / self._clipping_threshold, 1.0)
        return tf.unstack(factors)


def _spread(x, axes: tuple[int, ...]):
    """x with axes of size 1 where a mean has taken them away."""
    for axis in sorted(axes):
        x = tf.expand_dims(x, axis)
    return x


def zeros_like(value: tf.Variable, name: str) -> tf.Variable:
    """A float32 variable of zeros, shaped and laid out like `value`."""
    return _zeros(value, list(range(len(value.shape))), name)


def _zeros(value: tf.Variable, axes: list[int], name: str) -> tf.Variable:
    """A float32 variable of zeros with the given axes of `value`, laid out like them."""
    shape = [value.shape[axis] for axis in axes]
    if not isinstance(value, dtensor.DVariable):
        return tf.Variable(tf.zeros(shape), name=name)
    specs = [value.layout.sharding_specs[axis] for axis in axes]
    layout = dtensor.Layout(specs, value.layout.mesh)
    shard_shape = [
        size if spec == dtensor.UNSHARDED else size // layout.mesh.dim_size(spec)
        for size, spec in zip(shape, specs, strict=True)
    ]
    # Packed from zeros of a shard's shape, so that no device ever holds the whole. They come from
    # NumPy: within `mesh.use`, tf.zeros would make a DTensor, which cannot be packed.
    shard = tf.constant(np.zeros(shard_shape, np.float32))
    parts = [shard] * layout.mesh.num_local_devices()
    return dtensor.DVariable(dtensor.pack(parts, layout), name=name)


def _mix(slot: tf.Variable, value: tf.Tensor, mixing: tf.Tensor) -> tf.Tensor:
    """slot = slot + mixing · (value - slot), returned too."""
    old = slot.value()
    new = old + mixing * (value - old)
    slot.assign(new, read_value=False)
    return new


def _rms(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Root mean square of each tensor, [len(tensors)]."""
    halves = tf.stack([tf.nn.l2_loss(tensor) for tensor in tensors])
    sizes = [float(tensor.shape.num_elements()) for tensor in tensors]
    return tf.sqrt(halves * [2.0 / size for size in sizes])
