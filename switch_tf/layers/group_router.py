"""Routers that compare the tokens of a group: experts pick their tokens, or keep the likeliest.

Whether a token is taken then depends on the tokens behind it, so they do not decode as they train;
in a decoder they must be asked for.
"""

import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.layers.base import configurable
from switch_tf.layers.router import Router, SwitchRouter
from switch_tf.rules import Count

_FAR_BELOW = 1e9


def _best_tokens(scores_GES, capacity: int):
    """1 for the `capacity` highest scores above 0 of each expert, else 0; a tie goes to the first.

    [groups, experts, group_size] float32, without a gradient.
    """
    scores_GES = tf.stop_gradient(scores_GES)
    order_GES = tf.argsort(scores_GES, axis=-1, direction="DESCENDING", stable=True)
    rank_GES = tf.argsort(order_GES, axis=-1, stable=True)
    return tf.cast((rank_GES < capacity) & (scores_GES > 0), tf.float32)


@configurable
class SwitchMaxRouter(SwitchRouter):
    """Top-1 routing in which a full expert keeps its likeliest tokens, not the first ones.

    Mesh-TensorFlow's `switch_max`; "batch prioritized routing" (Riquelme et al., 2021).

    Args:
      num_experts: E.
      in_decoder: whether it may stand in a decoder, where it sees the tokens to come.
      **kwargs: of `SwitchRouter`.
    """

    def __init__(self, num_experts: Count, in_decoder: bool = False, **kwargs):
        super().__init__(num_experts, **kwargs)
        self.in_decoder = in_decoder

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """One expert a token, if it is among that expert's likeliest."""
        index_G1S, _, gate_G1S, chosen_GSE = super().choose(
            logits_GSE, probabilities_GSE, nonpadding_GS, training
        )
        scores_GSE = probabilities_GSE * chosen_GSE * tf.expand_dims(nonpadding_GS, -1)
        capacity = self.capacity(logits_GSE.shape[1], training)
        taken_GES = _best_tokens(tf.transpose(scores_GSE, [0, 2, 1]), capacity)
        return index_G1S, tf.reduce_sum(taken_GES, axis=1, keepdims=True), gate_G1S, chosen_GSE

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"in_decoder": self.in_decoder}


@configurable
class ExpertChoiceRouter(Router):
    """Each expert picks the tokens that are likeliest its own (Zhou et al., 2022).

    All experts are full, whatever the router does; a token may be picked by none, and by all. The
    load-balancing loss is constant. Nothing makes experts take all tokens, so that the dropless
    figure of an evaluation is the capped one.

    Args:
      num_experts: E.
      in_decoder: whether it may stand in a decoder, where it sees the tokens to come.
      **kwargs: of `Router`; the capacity factor is the mean number of experts a token.

    Raises:
      UserError: asked to drop no token: every expert would take all.
    """

    def __init__(self, num_experts: Count, in_decoder: bool = False, **kwargs):
        super().__init__(num_experts, **kwargs)
        if self.dropless:
            raise UserError(
                f"{type(self).__name__} cannot be dropless: its experts pick the tokens; raise "
                "capacity_factor"
            )
        self.in_decoder = in_decoder

    @property
    def experts_per_token(self) -> float:
        """The mean, in training."""
        return min(self.capacity_factor, self.num_experts)

    def capacity(self, group_size: int, training: bool) -> int:
        """C, tokens an expert picks from a group, also where others are not to drop any."""
        return self.limited_capacity(group_size, training)

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """All experts of a token, those that picked it being wanted."""
        scores_GSE = probabilities_GSE * tf.expand_dims(nonpadding_GS, -1)
        capacity = self.capacity(logits_GSE.shape[1], training)
        picked_GES = _best_tokens(tf.transpose(scores_GSE, [0, 2, 1]), capacity)
        expert_E = tf.reshape(tf.range(self.num_experts), [1, self.num_experts, 1])
        expert_index_GES = tf.zeros_like(picked_GES, tf.int32) + expert_E
        gate_GES = tf.transpose(self.gate(probabilities_GSE, picked_GES), [0, 2, 1])
        tokens_G11 = tf.reduce_sum(nonpadding_GS, axis=1)[:, tf.newaxis, tf.newaxis]
        picks_G11 = tf.reduce_sum(picked_GES, axis=[1, 2], keepdims=True)
        share_GES = picked_GES * tokens_G11 / tf.maximum(picks_G11, 1.0)
        return expert_index_GES, picked_GES, gate_GES, tf.transpose(share_GES, [0, 2, 1])

    def gate(self, probabilities_GSE, picked_GES):
        """[groups, group_size, experts]: what an expert's output is weighed with."""
        return probabilities_GSE

    def place(self, expert_index_GES, wanted_GES, capacity):
        """Places in token order; no expert picked more than it has room for."""
        position_GES = tf.cumsum(wanted_GES, axis=2, exclusive=True)
        return tf.cast(position_GES, tf.int32), wanted_GES > 0

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"in_decoder": self.in_decoder}


@configurable
class ExpertSelectionRouter(ExpertChoiceRouter):
    """Mesh-TensorFlow's `expert_selection`: an expert's probabilities are over the group's tokens.

    A token's output is the mean over the experts that picked it, each times its probability. The
    load-balancing loss is S · sum_s P_s² of the mean probabilities of the tokens: 1 where all are
    as likely.

    Arguments are those of `ExpertChoiceRouter`.
    """

    default_policy = "input_jitter"

    def normalize(self, logits_GSE, nonpadding_GS):
        """Softmax over tokens; padding has none of it."""
        weights_GS1 = tf.expand_dims(tf.cast(nonpadding_GS, logits_GSE.dtype), -1)
        # Of padding, a number that is far below and finite.
        logits_GSE = logits_GSE * weights_GS1 + (weights_GS1 - 1.0) * _FAR_BELOW
        largest_G1E = tf.stop_gradient(tf.reduce_max(logits_GSE, axis=1, keepdims=True))
        exp_GSE = tf.exp(logits_GSE - largest_G1E) * weights_GS1
        return exp_GSE / (tf.reduce_sum(exp_GSE, axis=1, keepdims=True) + 1e-20)

    def gate(self, probabilities_GSE, picked_GES):
        """Probabilities over the number of experts that picked the token."""
        times_GS = tf.maximum(tf.reduce_sum(picked_GES, axis=1), 1.0)
        return probabilities_GSE / tf.expand_dims(times_GS, -1)

    def balance(self, probabilities_GSE, counted_GSE, expert_index_GES, nonpadding_GS):
        """Of tokens, not of experts, which are balanced."""
        p_GS = tf.reduce_mean(probabilities_GSE, axis=-1)
        tokens_G = tf.reduce_sum(nonpadding_GS, axis=1)
        return tf.reduce_sum(tf.square(p_GS), axis=1) * tokens_G
