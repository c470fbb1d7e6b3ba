"""Routers that let a token visit or try several experts: top-2, top-k, no token left behind."""

from typing import Literal

import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.layers.base import configurable, sizes
from switch_tf.layers.router import Router, load_balancing_loss
from switch_tf.rules import Count, NonNegative

SecondPolicy = Literal["all", "none", "threshold", "random"]


def _best(probabilities_GSE, k):
    """Indices and probabilities of the k likeliest experts, each [groups, k, group_size]."""
    rest_GSE, indices, gates = tf.stop_gradient(probabilities_GSE), [], []
    # One at a time: the gradient of top_k is a scatter, for which DTensor would gather all groups.
    for _ in range(k):
        index_GS = tf.argmax(rest_GSE, axis=-1, output_type=tf.int32)
        chosen_GSE = tf.one_hot(index_GS, probabilities_GSE.shape[-1], dtype=rest_GSE.dtype)
        indices.append(index_GS)
        gates.append(tf.reduce_sum(probabilities_GSE * chosen_GSE, axis=-1))
        rest_GSE -= 2.0 * chosen_GSE
    return tf.stack(indices, axis=1), tf.stack(gates, axis=1)


def _best_alike(probabilities_GSE, k):
    """Same as `_best`, plus each expert's share of the token's choices."""
    expert_index_GKS, gate_GKS = _best(probabilities_GSE, k)
    experts = probabilities_GSE.shape[-1]
    one_hot_GKSE = tf.one_hot(expert_index_GKS, experts, dtype=probabilities_GSE.dtype)
    return expert_index_GKS, gate_GKS, tf.reduce_mean(one_hot_GKSE, axis=1)


def _checked_k(router, k):
    if k > router.num_experts:
        raise UserError(
            f"{type(router).__name__}.k={k} exceeds num_experts={router.num_experts}: lower k"
        )
    return k


@configurable
class TopKRouter(Router):
    """Sends each token to its k likeliest experts and normalises their gates to sum to 1.

    Args:
      num_experts: number of experts, E.
      k: experts per token. Expert computation and all-to-all traffic grow with k, because the
        capacity factor has to. 2 is usual, as in GShard; for 1, use `SwitchRouter`.
      normalize_gates: whether the gates of a token sum to 1; otherwise they are the probabilities,
        as in Flaxformer.
      **kwargs: arguments of `Router`; even a perfectly even load needs a capacity factor of k.

    Raises:
      UserError: k is larger than the number of experts.
    """

    def __init__(self, num_experts: Count, k: Count = 2, normalize_gates: bool = True, **kwargs):
        super().__init__(num_experts, **kwargs)
        self.k = self.experts_per_token = _checked_k(self, k)
        self.normalize_gates = normalize_gates

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """Chooses k experts per token; the load-balancing loss counts all choices equally."""
        expert_index_GKS, gate_GKS, counted_GSE = _best_alike(probabilities_GSE, self.k)
        if self.normalize_gates:
            gate_GKS /= tf.reduce_sum(gate_GKS, axis=1, keepdims=True) + 1e-9
        return expert_index_GKS, tf.ones_like(gate_GKS), gate_GKS, counted_GSE

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"k": self.k, "normalize_gates": self.normalize_gates}


@configurable
class Top2Router(Router):
    """Top-2 gating of Mesh-TensorFlow and of the paper's MoE-Base (GShard, Lepikhin et al., 2020).

    The load-balancing loss counts first choices. Gates are normalised over both choices, also
    where the second expert is then not visited.

    Args:
      num_experts: number of experts, E, at least 2.
      second_policy: which second experts are visited: "all", "none", "threshold" (gate above
        `second_threshold`), or "random" (with probability gate / `second_threshold`). "random", as
        in Mesh-TensorFlow, saves capacity by mostly skipping second experts with a small gate.
      eval_second_policy: the second policy in evaluation; None uses `second_policy`.
      second_threshold: gate above which "threshold" and "random" always visit the second expert.
        Higher values visit fewer and save capacity; Mesh-TensorFlow uses 0.2.
      second_place_loss: adds half the load-balancing loss of the second choices.
      **kwargs: arguments of `Router`.

    Raises:
      UserError: an unknown policy; a single expert.
    """

    def __init__(
        self,
        num_experts: Count,
        second_policy: SecondPolicy = "random",
        eval_second_policy: SecondPolicy | None = None,
        second_threshold: NonNegative = 0.2,
        second_place_loss: bool = False,
        **kwargs,
    ):
        super().__init__(num_experts, **kwargs)
        if num_experts < 2:
            raise UserError(f"Top2Router has num_experts={num_experts}: give it 2 or more")
        # An upper bound: the policy and full experts leave out some second choices.
        self.experts_per_token = 1 if second_policy == "none" else 2
        self.second_policy = second_policy
        self.eval_second_policy = eval_second_policy
        self.second_threshold = second_threshold
        self.second_place_loss = second_place_loss

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """Chooses two experts per token; the second is wanted where the policy says so."""
        expert_index_G2S, gate_G2S = _best(probabilities_GSE, 2)
        gate_G2S /= tf.reduce_sum(gate_G2S, axis=1, keepdims=True) + 1e-9
        second_GS = gate_G2S[:, 1]
        policy = self.second_policy
        if not training and self.eval_second_policy is not None:
            policy = self.eval_second_policy
        made_GS = {
            "all": lambda: tf.ones_like(second_GS),
            "none": lambda: tf.zeros_like(second_GS),
            "threshold": lambda: tf.cast(second_GS > self.second_threshold, second_GS.dtype),
            "random": lambda: self._drawn(second_GS),
        }[policy]()
        wanted_G2S = tf.stack([tf.ones_like(made_GS), made_GS], axis=1)
        first_GSE = tf.one_hot(expert_index_G2S[:, 0], self.num_experts, dtype=gate_G2S.dtype)
        return expert_index_G2S, wanted_G2S, gate_G2S, first_GSE

    def _drawn(self, second_GS):
        uniform_GS = tf.cast(self.uniform(sizes(second_GS)), second_GS.dtype)
        probability_GS = tf.stop_gradient(second_GS) / max(self.second_threshold, 1e-9)
        return tf.cast(uniform_GS < probability_GS, second_GS.dtype)

    def balance(self, probabilities_GSE, counted_GSE, expert_index_G2S, nonpadding_GS):
        """Load-balancing loss of first choices, plus half that of second ones if asked for.

        Over "positions" it follows Mesh-TensorFlow's top-2 gating, which, unlike its Switch gating,
        leaves padding out of both sums, except out of the mean probabilities of second choices.
        """
        over, counted_GS = self.load_balancing_over, nonpadding_GS
        if over == "positions":
            counted_GS = tf.ones_like(nonpadding_GS)
        nonpadding_GS1 = tf.expand_dims(nonpadding_GS, -1)
        first_GSE = counted_GSE * nonpadding_GS1
        loss_G = load_balancing_loss(
            probabilities_GSE * nonpadding_GS1, first_GSE, counted_GS, over
        )
        if not self.second_place_loss:
            return loss_G
        rest_GSE = probabilities_GSE * (1.0 - first_GSE)
        rest_GSE /= tf.reduce_sum(rest_GSE, axis=-1, keepdims=True) + 1e-9
        second_GSE = tf.one_hot(expert_index_G2S[:, 1], self.num_experts, dtype=nonpadding_GS.dtype)
        second_GSE *= nonpadding_GS1
        return loss_G + 0.5 * load_balancing_loss(rest_GSE, second_GSE, counted_GS, over)

    def get_config(self):
        """Constructor arguments."""
        names = "second_policy eval_second_policy second_threshold second_place_loss"
        return super().get_config() | {name: getattr(self, name) for name in names.split()}


@configurable
class NoTokenLeftBehindRouter(Router):
    """Lets a token whose expert is full try its next likeliest one (paper, Appendix B).

    The gate is the probability of the expert that took the token.

    Args:
      num_experts: number of experts, E.
      k: number of experts a token tries. More tries drop fewer tokens, but each costs a pass over
        the choices; 4 is the default, as in Mesh-TensorFlow.
      **kwargs: arguments of `Router`.

    Raises:
      UserError: k is larger than the number of experts.
    """

    once = True
    default_policy = "input_jitter"

    def __init__(self, num_experts: Count, k: Count = 4, **kwargs):
        super().__init__(num_experts, **kwargs)
        self.k = _checked_k(self, k)

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """Chooses k experts to try in turn; the loss counts all equally, as in Mesh-TensorFlow."""
        expert_index_GKS, gate_GKS, counted_GSE = _best_alike(probabilities_GSE, self.k)
        return expert_index_GKS, tf.ones_like(gate_GKS), gate_GKS, counted_GSE

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"k": self.k}
