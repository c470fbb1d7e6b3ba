"""Routers that ignore the tokens, to measure the cost of balance: uniform, skewed, worst case."""

import numpy as np
import tensorflow as tf

from switch_tf.layers.base import configurable, lay_out, sizes
from switch_tf.layers.router import Router, one_choice
from switch_tf.rules import Count, NonNegative


@configurable
class UniformRouter(Router):
    """Sends token i of a group to expert i mod E: perfect balance.

    Takes the same arguments as `Router`.
    """

    def experts_GS(self, groups: int, group_size: int):
        """Expert of each position, int32, broadcastable to [groups, group_size]."""
        return tf.range(group_size) % self.num_experts

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """Assigns one expert per token; the gate is its probability, as in a learned router."""
        everywhere_GS = tf.zeros_like(logits_GSE[..., 0], tf.int32)
        expert_GS = everywhere_GS + self.experts_GS(*sizes(nonpadding_GS))
        # It depends on no input from which DTensor could infer a layout.
        return one_choice(lay_out(expert_GS, ("batch", None)), probabilities_GSE)


@configurable
class ZipfRouter(UniformRouter):
    """Draws expert i with probability proportional to 1 / (i + 1)^exponent.

    The draw depends on (seed, step, layer), not on the tokens.

    Args:
      num_experts: number of experts, E.
      exponent: skew of the load; 0 is an even load, larger values send more tokens to few experts.
      **kwargs: arguments of `Router`.

    Raises:
      UserError: a negative exponent.
    """

    def __init__(self, num_experts: Count, exponent: NonNegative = 1.0, **kwargs):
        super().__init__(num_experts, **kwargs)
        self.exponent = exponent

    def experts_GS(self, groups, group_size):
        """The drawn experts, int32 [groups, group_size]."""
        weight_E = np.arange(1, self.num_experts + 1, dtype=np.float64) ** -self.exponent
        below_E = np.cumsum(weight_E / weight_E.sum()).astype(np.float32)
        drawn_GS = self.uniform([groups, group_size])
        # Counts the cumulative shares below the draw; the last one, 1 up to rounding, is left out.
        passed_GSE = tf.expand_dims(drawn_GS, -1) >= below_E[:-1]
        return tf.reduce_sum(tf.cast(passed_GSE, tf.int32), axis=-1)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"exponent": self.exponent}


@configurable
class WorstCaseRouter(UniformRouter):
    """Sends every token to expert 0, which fills its capacity and drops the rest.

    Takes the same arguments as `Router`.
    """

    def experts_GS(self, groups, group_size):
        """Zeros, int32 [group_size]."""
        return tf.zeros([group_size], tf.int32)
