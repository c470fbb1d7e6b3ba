"""The interface of optimizers for training, planner and checkpoints, and what they share."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf.errors import UserError
from switch_tf.optimizers.schedules import Schedule, not_given

# The dimensions of a variable, grouped where several count as one axis.
Groups = tuple[tuple[int, ...], ...]


def axis_groups(variable: keras.Variable) -> Groups:
    """The axis groups set by `layers.base.Layer.weight`; by default each axis is its own group."""
    return getattr(variable, "axis_groups", None) or tuple(
        (axis,) for axis in range(len(variable.shape))
    )


class Optimizer(tf.Module):
    """Base class of optimizers for variables that may be sharded over a mesh.

    A subclass defines `slot_axes` and `updates`, and is decorated with `@configurable`. If it
    knows sums of squares without another look at large tensors, it defines `updates_and_squares`,
    too.

    Attributes:
      learning_rate: learning rate schedule, a function of the step; see `schedules`.
      slots: `<variable path>/<kind>` -> float32 variable, initially zero. It has those axes of the
        variable that `slot_axes` keeps for the kind, sharded like them.
        `tf.train.Checkpoint(optimizer=...)` saves slots under these names.

    Args:
      learning_rate: see above.
      global_norm_clip_threshold: if the norm of all gradients together exceeds it, they are scaled
        down to it; None turns clipping off (T5X's name). Costs an all-reduce, and holds all
        gradients at the same time; 1.0 is usual.

    Raises:
      UserError: no `learning_rate` is given.
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
        """Maps each kind of slot to the axes that it keeps of a variable.

        The planner uses it to count slots without making variables.

        Args:
          shape: shape of the variable.
          groups: its `axis_groups`.
        """
        raise NotImplementedError

    def updates(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> list[tf.Tensor]:
        """Updates the slots and returns what to subtract from each variable.

        Args:
          gradients: clipped float32 gradients, one per variable.
          variables: the variables given to `build`, or some of them.
          step: float32 scalar, 0 in the first update.
        """
        raise NotImplementedError

    def updates_and_squares(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The result of `updates`, and sums of squares.

        Args:
          gradients, variables, step: see `updates`.

        Returns:
          What to subtract from each variable, and float32 [3, number of variables]: the sums of
          squares of each gradient, of what is subtracted, and of each variable before.
        """
        weights = [tf.cast(variable.value, tf.float32) for variable in variables]
        before = sums_of_squares(gradients), sums_of_squares(weights)
        updates = self.updates(gradients, variables, step)
        return updates, tf.stack([before[0], sums_of_squares(updates), before[1]])

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots of `variables`; call it once, outside compiled functions.

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
        """Kind -> slot of one of the variables given to `build`."""
        kinds = self.slot_axes(tuple(variable.shape), axis_groups(variable))
        return {kind: self.slots[f"{variable.path}/{kind}"] for kind in kinds}

    def apply(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> tf.Tensor:
        """Updates the variables and their slots; call it inside a compiled function.

        Args:
          gradients: one per variable, of the same shape.
          variables: the variables given to `build`, or some of them.
          step: int scalar, 0 in the first update.

        Returns:
          float32 [3, number of variables]: the sums of squares of each gradient before clipping, of
          what was subtracted, and of each variable before.

        Raises:
          ValueError: a variable has no gradient, or was not given to `build`.
        """
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None:
                raise ValueError(f"'{variable.path}' has no gradient: leave it out of the update")
            if variable.path not in self._paths:
                raise ValueError(f"'{variable.path}' was not given to build")
        gradients = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
        factor = self._clipping(gradients)
        if factor is not None:
            gradients = [gradient * factor for gradient in gradients]
        step = tf.cast(step, tf.float32)
        updates, squares = self.updates_and_squares(gradients, variables, step)
        for update, variable in zip(updates, variables, strict=True):
            # Subtract in place: w = w - update could round w to bfloat16 at each step.
            variable.value.assign_sub(tf.cast(update, variable.value.dtype), read_value=False)
        if factor is None:
            return squares
        return squares / tf.stack([tf.square(factor), 1.0, 1.0])[:, tf.newaxis]

    def _clipping(self, gradients) -> tf.Tensor | None:
        """What all gradients are multiplied by; None if there is no threshold."""
        if self._global_norm_clip_threshold is None:
            return None
        norm = tf.sqrt(tf.reduce_sum(sums_of_squares(gradients)))
        return tf.minimum(1.0, self._global_norm_clip_threshold / tf.maximum(norm, 1e-30))


def sums_of_squares(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of squares of each tensor, [number of tensors]."""
    # Stacked at once: DTensor then merges the all-reduces of the sums into one.
    return 2.0 * tf.stack([tf.nn.l2_loss(tensor) for tensor in tensors])


def moving_average(slot: tf.Variable, value: tf.Tensor, mixing) -> tf.Tensor:
    """Updates slot = slot + mixing · (value - slot), and returns its new value."""
    old = slot.value()
    new = old + mixing * (value - old)
    slot.assign(new, read_value=False)
    return new


def zeros_like(value: tf.Variable, name: str) -> tf.Variable:
    """Creates a float32 variable of zeros with the shape and layout of `value`."""
    return _zeros(value, list(range(len(value.shape))), name)


def _zeros(value: tf.Variable, axes: list[int], name: str) -> tf.Variable:
    """Creates a float32 variable of zeros with the given axes of `value`, sharded like them."""
    shape = [value.shape[axis] for axis in axes]
    if not isinstance(value, dtensor.DVariable):
        return tf.Variable(tf.zeros(shape), name=name)
    specs = [value.layout.sharding_specs[axis] for axis in axes]
    layout = dtensor.Layout(specs, value.layout.mesh)
    shard_shape = [
        size if spec == dtensor.UNSHARDED else size // layout.mesh.dim_size(spec)
        for size, spec in zip(shape, specs, strict=True)
    ]
    # Packed from zeros of the shard's shape, so that no device ever holds the whole. NumPy creates
    # them, because in `mesh.use` tf.zeros would make a DTensor, which cannot be packed.
    shard = tf.constant(np.zeros(shard_shape, np.float32))
    parts = [shard] * layout.mesh.num_local_devices()
    return dtensor.DVariable(dtensor.pack(parts, layout), name=name)
