"""Routers that ignore the tokens, to measure what balance costs: perfect, and none at all."""

import tensorflow as tf

from switch_tf.layers.base import configurable
from switch_tf.layers.router import Router


@configurable
class UniformRouter(Router):
    """Token i of a group goes to expert i mod E: perfect balance.

    Args:
      num_experts: E.
      **kwargs: of `Router`.
    """

    def __init__(self, num_experts, **kwargs):
        super().__init__(num_experts, **kwargs)

    def experts(self, group_size):
        """int32 [group_size], the expert of each place, whatever the token there."""
        return tf.range(group_size) % self.num_experts

    def choose(self, logits_GSE, probabilities_GSE, training):
        """One expert a token; its gate is the probability, as a router that learns has it."""
        first_GS = tf.argmax(logits_GSE, axis=-1, output_type=tf.int32)
        expert_index_GS = tf.zeros_like(first_GS) + self.experts(logits_GSE.shape[1])
        chosen_GSE = tf.one_hot(expert_index_GS, self.num_experts)
        gate_G1S = tf.stack([tf.reduce_sum(probabilities_GSE * chosen_GSE, axis=-1)], axis=1)
        return tf.stack([expert_index_GS], axis=1), tf.ones_like(gate_G1S), gate_G1S, chosen_GSE


@configurable
class WorstCaseRouter(UniformRouter):
    """Every token goes to expert 0, which takes its capacity and drops the rest.

    Args:
      num_experts: E.
      **kwargs: of `Router`.
    """

    def __init__(self, num_experts, **kwargs):
        super().__init__(num_experts, **kwargs)

    def experts(self, group_size):
        """int32 [group_size], zeros."""
        return tf.zeros([group_size], tf.int32)
