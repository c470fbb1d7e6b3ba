"""Routers that ignore the tokens, to measure what balance costs: perfect, skewed, none at all."""

import numpy as np
import tensorflow as tf

from switch_tf.layers.base import configurable, lay_out, sizes
from switch_tf.layers.router import Router, one_choice
from switch_tf.rules import Count, NonNegative


@configurable
class UniformRouter(Router):
    """Token i of a group goes to expert i mod E: perfect balance.

    Arguments are those of `Router`.
    """

    def experts_GS(self, groups: int, group_size: int):
        """int32, the expert of each place, whatever the token there; or what broadcasts to it."""
        return tf.range(group_size) % self.num_experts

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """One expert a token; its gate is the probability, as a router that learns has it."""
        everywhere_GS = tf.zeros_like(logits_GSE[..., 0], tf.int32)
        expert_GS = everywhere_GS + self.experts_GS(*sizes(nonpadding_GS))
        # It depends on no input, from which a mesh would see where it lies.
        return one_choice(lay_out(expert_GS, ("batch", None)), probabilities_GSE)


@configurable
class ZipfRouter(UniformRouter):
    """Expert i is drawn with a probability in proportion to 1 / (i + 1)^exponent.

    The draw is a function of (seed, step, layer), not of the tokens.

    Args:
      num_experts: E.
      exponent: 0 is even.
      **kwargs: of `Router`.

    Raises:
      UserError: a negative exponent.
    """

    def __init__(self, num_experts: Count, exponent: NonNegative = 1.0, **kwargs):
        super().__init__(num_experts, **kwargs)
        self.exponent = exponent

    def experts_GS(self, groups, group_size):
        """int32, drawn."""
        weight_E = np.arange(1, self.num_experts + 1, dtype=np.float64) ** -self.exponent
        below_E = np.cumsum(weight_E / weight_E.sum()).astype(np.float32)
        drawn_GS = self.uniform([groups, group_size])
        # As many as lie below the draw, but for the last, whose sum is 1 up to rounding.
        passed_GSE = tf.expand_dims(drawn_GS, -1) >= below_E[:-1]
        return tf.reduce_sum(tf.cast(passed_GSE, tf.int32), axis=-1)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"exponent": self.exponent}


@configurable
class WorstCaseRouter(UniformRouter):
    """Every token goes to expert 0, which takes its capacity and drops the rest.

    Arguments are those of `Router`.
    """

    def experts_GS(self, groups, group_size):
        """int32 [group_size], zeros."""
        return tf.zeros([group_size], tf.int32)
