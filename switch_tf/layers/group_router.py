"""Routers that compare the tokens of a group: experts pick their tokens, or keep the likeliest.

Whether a token is kept then depends on later tokens, so a decoder with such a router does not
decode as it was trained. A decoder refuses them unless `in_decoder` is set.
"""

from typing import Annotated

import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.layers.base import configurable, sizes
from switch_tf.layers.router import OF_EXPERTS, Router, SwitchRouter
from switch_tf.rules import Count

_FAR_BELOW = 1e9


def _best_tokens(scores_GES, capacity: int):
    """Marks each expert's `capacity` highest positive scores with 1, all others with 0.

    Ties go to the earlier token. Returns [groups, experts, group_size], without gradient.
    """
    scores_GES = tf.stop_gradient(scores_GES)
    order_GES = tf.argsort(scores_GES, axis=-1, direction="DESCENDING", stable=True)
    rank_GES = tf.argsort(order_GES, axis=-1, stable=True)
    return tf.cast((rank_GES < capacity) & (scores_GES > 0), scores_GES.dtype)


@configurable
class SwitchMaxRouter(SwitchRouter):
    """Top-1 routing in which a full expert keeps its likeliest tokens instead of the first ones.

    Known as `switch_max` in Mesh-TensorFlow and as "batch prioritized routing" (Riquelme et al.,
    2021).

    Args:
      num_experts: number of experts, E.
      in_decoder: allows the router in a decoder, where it sees future tokens. Leave it off, and
        keep the decoder dense (`TransformerEncoderDecoder.decoder_sparse_layers=()`).
      **kwargs: arguments of `SwitchRouter`.
    """

    def __init__(
        self, num_experts: Annotated[Count, OF_EXPERTS], in_decoder: bool = False, **kwargs
    ):
        super().__init__(num_experts, **kwargs)
        self.in_decoder = in_decoder

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """Chooses one expert per token, wanted if the token is among that expert's likeliest."""
        index_G1S, _, gate_G1S, chosen_GSE = super().choose(
            logits_GSE, probabilities_GSE, nonpadding_GS, training
        )
        scores_GSE = probabilities_GSE * chosen_GSE * tf.expand_dims(nonpadding_GS, -1)
        capacity = self.capacity(sizes(logits_GSE)[1], training)
        taken_GES = _best_tokens(tf.transpose(scores_GSE, [0, 2, 1]), capacity)
        return index_G1S, tf.reduce_sum(taken_GES, axis=1, keepdims=True), gate_G1S, chosen_GSE

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"in_decoder": self.in_decoder}


@configurable
class ExpertChoiceRouter(Router):
    """Expert choice: each expert picks its highest-scoring tokens (Zhou et al., 2022).

    All experts are always full, so the load-balancing loss is constant; a token may be picked by
    no expert or by several. Dropless evaluation does not apply: its figures equal those at the
    evaluation capacity.

    Args:
      num_experts: number of experts, E.
      in_decoder: allows the router in a decoder, where it sees future tokens. Leave it off, and
        keep the decoder dense (`TransformerEncoderDecoder.decoder_sparse_layers=()`).
      **kwargs: arguments of `Router`; the capacity factor is the mean number of experts per token.

    Raises:
      UserError: `dropless` is set: every expert would take all tokens.
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
        """Mean number of experts per token in training."""
        return min(self.capacity_factor, self.num_experts)

    def capacity(self, group_size: int, training: bool) -> int:
        """C, tokens that an expert picks from a group, even where other routers are dropless."""
        return self.limited_capacity(group_size, training)

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """Lists all experts for each token; those that picked it are wanted."""
        scores_GSE = probabilities_GSE * tf.expand_dims(nonpadding_GS, -1)
        capacity = self.capacity(sizes(logits_GSE)[1], training)
        picked_GES = _best_tokens(tf.transpose(scores_GSE, [0, 2, 1]), capacity)
        expert_E = tf.reshape(tf.range(self.num_experts), [1, self.num_experts, 1])
        expert_index_GES = tf.zeros_like(picked_GES, tf.int32) + expert_E
        gate_GES = tf.transpose(self.gate(probabilities_GSE, picked_GES), [0, 2, 1])
        tokens_G11 = tf.reduce_sum(nonpadding_GS, axis=1)[:, tf.newaxis, tf.newaxis]
        picks_G11 = tf.reduce_sum(picked_GES, axis=[1, 2], keepdims=True)
        share_GES = picked_GES * tokens_G11 / tf.maximum(picks_G11, 1.0)
        return expert_index_GES, picked_GES, gate_GES, tf.transpose(share_GES, [0, 2, 1])

    def gate(self, probabilities_GSE, picked_GES):
        """Weights of the experts' outputs, [groups, group_size, experts]."""
        return probabilities_GSE

    def place(self, expert_index_GES, wanted_GES, capacity):
        """Positions in token order; no expert has picked more tokens than its capacity."""
        position_GES = tf.cumsum(wanted_GES, axis=2, exclusive=True)
        return tf.cast(position_GES, tf.int32), wanted_GES > 0

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"in_decoder": self.in_decoder}


@configurable
class ExpertSelectionRouter(ExpertChoiceRouter):
    """Expert choice with each expert's softmax over the tokens of the group.

    Known as `expert_selection` in Mesh-TensorFlow. A token's output is the mean over the experts
    that picked it of their outputs times their probabilities. The load-balancing loss is
    S · sum_s P_s², with P_s the mean probability of token s over the experts; it is 1 if all
    tokens are equally likely.

    Takes the same arguments as `ExpertChoiceRouter`.
    """

    default_policy = "input_jitter"

    def normalize(self, logits_GSE, nonpadding_GS):
        """Softmax over tokens, 0 for padding."""
        weights_GS1 = tf.expand_dims(tf.cast(nonpadding_GS, logits_GSE.dtype), -1)
        # Padding gets a very low but finite logit.
        logits_GSE = logits_GSE * weights_GS1 + (weights_GS1 - 1.0) * _FAR_BELOW
        largest_G1E = tf.stop_gradient(tf.reduce_max(logits_GSE, axis=1, keepdims=True))
        exp_GSE = tf.exp(logits_GSE - largest_G1E) * weights_GS1
        return exp_GSE / (tf.reduce_sum(exp_GSE, axis=1, keepdims=True) + 1e-20)

    def gate(self, probabilities_GSE, picked_GES):
        """Probabilities divided by the number of experts that picked the token."""
        times_GS = tf.maximum(tf.reduce_sum(picked_GES, axis=1), 1.0)
        return probabilities_GSE / tf.expand_dims(times_GS, -1)

    def balance(self, probabilities_GSE, counted_GSE, expert_index_GES, nonpadding_GS):
        """Balances tokens rather than experts, whose load is balanced by design."""
        p_GS = tf.reduce_mean(probabilities_GSE, axis=-1)
        tokens_G = tf.reduce_sum(nonpadding_GS, axis=1)
        return tf.reduce_sum(tf.square(p_GS), axis=1) * tokens_G
