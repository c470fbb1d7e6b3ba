"""Routers that ignore the tokens, to measure what balance costs: perfect, and none at all."""

import tensorflow as tf

from switch_tf.layers.base import configurable
from switch_tf.layers.router import Router, one_choice


@configurable
class UniformRouter(Router):
    """Token i of a group goes to expert i mod E: perfect balance.

    Arguments are those of `Router`.
    """

    def experts(self, group_size):
        """int32 [group_size], the expert of each place, whatever the token there."""
        return tf.range(group_size) % self.num_experts

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """One expert a token; its gate is the probability, as a router that learns has it."""
        everywhere_GS = tf.zeros_like(logits_GSE[..., 0], tf.int32)
        return one_choice(everywhere_GS + self.experts(logits_GSE.shape[1]), probabilities_GSE)


@configurable
class WorstCaseRouter(UniformRouter):
    """Every token goes to expert 0, which takes its capacity and drops the rest.

    Arguments are those of `Router`.
    """

    def experts(self, group_size):
        """int32 [group_size], zeros."""
        return tf.zeros([group_size], tf.int32)
