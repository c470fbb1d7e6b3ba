"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101).

For a variable w with gradient g at the 0-based step t:

  m = β1 m + (1 - β1) g                             momentum
  v = β2 v + (1 - β2) g²                            second moment
  w = w - α(t) · (m̂ / (sqrt(v̂) + ε) + λ w)          m̂ = m / (1 - β1^(t + 1)), v̂ likewise

The learning rate also multiplies the decay λ, as in optax, PyTorch and Keras. AdamW keeps two
numbers per weight, while Adafactor, which the paper uses, keeps next to none for large matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from switch_tf.optimizers.base import Groups, Optimizer, moving_average
from switch_tf.optimizers.schedules import Schedule, not_given
from switch_tf.rules import NonNegative, Positive, Rate, configurable


@configurable
class AdamW(Optimizer):
    """AdamW for variables that may be sharded over a mesh.

    Slots: `m` and `v`, both of the variable's shape. Variables with one axis do not decay: these
    are the scales of norms, which belong near 1, not near 0. All others do: kernels, experts,
    routers, embeddings and the position bias.
    """

    def __init__(
        self,
        learning_rate: Schedule = not_given,
        beta1: Rate = 0.9,
        beta2: Rate = 0.999,
        epsilon: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.01,
        global_norm_clip_threshold: Positive | None = None,
    ):
        """Configures the update; `build` creates the slots.

        Args:
          learning_rate: α, a schedule; see `schedules`. Updates are about as large as α, whatever
            the size of the weights. T5's rates are meant for Adafactor, which multiplies them by
            the RMS of the weights; scale them down with `schedules.rsqrt.scale`.
          beta1: β1, in [0, 1). Higher values smooth the update more but react later; 0.9 is usual.
          beta2: β2, in [0, 1). 0.999 is usual; 0.95 to 0.98 recover sooner from a spike in the
            gradient.
          epsilon: ε, added outside the root; larger values damp updates where gradients are small.
          weight_decay: λ; 0 gives Adam. Larger values regularise more; PyTorch's default is 0.01.
          global_norm_clip_threshold: see `Optimizer`; 1.0 is usual.

        Raises:
          UserError: no `learning_rate` is given.
        """
        super().__init__(learning_rate, global_norm_clip_threshold)
        self._beta1 = beta1
        self._beta2 = beta2
        self._epsilon = epsilon
        self._weight_decay = weight_decay

    def slot_axes(self, shape: tuple[int, ...], groups: Groups) -> dict[str, list[int]]:
        """`m` and `v`, both with all axes."""
        everything = list(range(len(shape)))
        return {"m": everything, "v": everything}

    def updates(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], step: tf.Tensor
    ) -> list[tf.Tensor]:
        """Updates the slots and returns α · (m̂ / (sqrt(v̂) + ε) + λ w) for each variable."""
        rate = self.learning_rate(step)
        started1, started2 = (_started(beta, step) for beta in (self._beta1, self._beta2))
        found = []
        for gradient, variable in zip(gradients, variables, strict=True):
            slots = self.slots_of(variable)
            m = moving_average(slots["m"], gradient, 1.0 - self._beta1)
            v = moving_average(slots["v"], tf.square(gradient), 1.0 - self._beta2)
            update = (m / started1) / (tf.sqrt(v / started2) + self._epsilon)
            if self._weight_decay and len(variable.shape) > 1:
                update += self._weight_decay * tf.cast(variable.value, tf.float32)
            found.append(rate * update)
        return found


def _started(beta: float, step: tf.Tensor) -> tf.Tensor:
    """1 - β^(t + 1), the bias correction of a moving average that starts from zero.

    Uses expm1, because with β = 0.999 the float32 difference would be off by 5e-5 in the first
    steps.
    """
    return -tf.math.expm1((step + 1.0) * (math.log(beta) if beta else -math.inf))
