"""What an optimizer gives training, the planner and checkpoints, and what all of them share."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf.errors import UserError
from switch_tf.optimizers.schedules import Schedule, not_given

# Dimensions of a variable, those together that count as one axis.
Groups = tuple[tuple[int, ...], ...]


def axis_groups(variable: keras.Variable) -> Groups:
    """The variable's own, as `layers.base.Layer.weight` gives it; else each axis by itself."""
    return getattr(variable, "axis_groups", None) or tuple(
        (axis,) for axis in range(len(variable.shape))
    )


class Optimizer(tf.Module):
    """An update of variables that may be laid out over a mesh.

    A subclass defines `slot_axes` and `updates`, and is decorated with `@configurable`.

    Attributes:
      learning_rate: a function of the step, as in `schedules`.
      slots: `<variable path>/<kind>` -> float32 variable of zeros at first, of the variable's axes
        that `slot_axes` keeps for the kind, laid out as they are.
        `tf.train.Checkpoint(optimizer=...)` saves them by these names.

    Args:
      learning_rate: as above.
      global_norm_clip_threshold: gradients whose norm, of all variables together, is above it are
        scaled down to it first; None does not (T5X's name).

    Raises:
      UserError: no `learning_rate`.
    """

    def __init__(
        self,
        learning_rate: Schedule = not_given,
        global_norm_clip_threshold: float | None = None,
    ):
        super().__init__()
        if learning_rate is not_given:
            raise UserError(
                f"{type(self).__name__}.learning_rate is missing: give @schedules.constant(), "
                "@schedules.rsqrt() or @schedules.linear_decay()"
            )
        self.learning_rate = learning_rate
        self.slots = {}
        self._paths = set()
        self._global_norm_clip_threshold = global_norm_clip_threshold

    def slot_axes(self, shape: tuple[int, ...], groups: Groups) -> dict[str, list[int]]:
        """Kind of slot -> the axes of a variable of `shape` that it keeps.

        The planner counts slots by it, without a variable.

        Args:
          shape: of the variable.
          groups: its `axis_groups`.
        """
        raise NotImplementedError

    def updates(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> list[tf.Tensor]:
        """Brings the slots up to date, and returns what is to be subtracted from each variable.

        Args:
          gradients: float32, one a variable, clipped.
          variables: those of `build`, or some of them.
          step: float32 scalar, 0 in the first update.
        """
        raise NotImplementedError

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the slots of `variables`, once and outside compiled functions.

        Raises:
          ValueError: called twice, or two variables share a path.
        """
        if self._paths:
            raise ValueError(f"{type(self).__name__}.build was called before")
        for variable in variables:
            if variable.path in self._paths:
                raise ValueError(f"two variables have the path '{variable.path}'")
            self._paths.add(variable.path)
            kept = self.slot_axes(tuple(variable.shape), axis_groups(variable))
            for kind, axes in kept.items():
                name = f"{variable.path}/{kind}"
                self.slots[name] = _zeros(variable.value, axes, name)

    def slots_of(self, variable: keras.Variable) -> dict[str, tf.Variable]:
        """Kind -> slot of one variable of `build`."""
        kinds = self.slot_axes(tuple(variable.shape), axis_groups(variable))
        return {kind: self.slots[f"{variable.path}/{kind}"] for kind in kinds}

    def apply(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> None:
        """Updates the variables and their slots; call it inside a compiled function.

        Args:
          gradients: one a variable, of its shape.
          variables: those of `build`, or some of them.
          step: 0-based int scalar, 0 in the first update.

        Raises:
          ValueError: a variable has no gradient, or was not given to `build`.
        """
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None:
                raise ValueError(f"'{variable.path}' has no gradient: leave it out of the update")
            if variable.path not in self._paths:
                raise ValueError(f"'{variable.path}' was not given to build")
        gradients = self._clipped([tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients])
        updates = self.updates(gradients, variables, tf.cast(step, tf.float32))
        for update, variable in zip(updates, variables, strict=True):
            update = tf.cast(update, variable.value.dtype)
            # Subtracted in place: w = w - update would round a bfloat16 reading of w each step.
            variable.value.assign_sub(update, read_value=False)

    def _clipped(self, gradients):
        if self._global_norm_clip_threshold is None:
            return gradients
        # Stacked before they are added: DTensor joins the all-reduces of the sums into one.
        halves = tf.stack([tf.nn.l2_loss(gradient) for gradient in gradients])
        norm = tf.sqrt(2.0 * tf.reduce_sum(halves))
        factor = tf.minimum(1.0, self._global_norm_clip_threshold / tf.maximum(norm, 1e-30))
        return [gradient * factor for gradient in gradients]


def moving_average(slot: tf.Variable, value: tf.Tensor, mixing) -> tf.Tensor:
    """slot = slot + mixing · (value - slot), returned too."""
    old = slot.value()
    new = old + mixing * (value - old)
    slot.assign(new, read_value=False)
    return new


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
