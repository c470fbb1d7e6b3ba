"""A router's decision and report, positions in the experts' buffers, and expert capacity."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from switch_tf.layers.figures import Figures


@dataclasses.dataclass(frozen=True)
class Routing:
    """A router's decision for every token of every group.

    K is the number of experts that a token may visit, 1 for the Switch router. An expert's buffer
    is filled with the first choices of all tokens, then with the second ones, each in token order.
    Logits are x · W before the softmax, probabilities after it; the two never share a name.

    Attributes:
      expert_index_GKS: int32, the k-th chosen expert.
      position_GKS: int32, the token's position in that expert's buffer.
      kept_GKS: bool, False for choices beyond the capacity and for padding.
      gate_GKS: float32, weight of the expert's output; 0 if not kept.
      chosen_GSE: float32, the router's assignment regardless of capacity. Rows sum to 1; with
        expert choice they do so on average.
      logits_GSE: float32.
      probabilities_GSE: float32; rows sum to 1, except with `ExpertSelectionRouter`.
      nonpadding_GS: float32, 1 for tokens, 0 for padding.
      load_balancing_loss_G: float32, unweighted; 1.0 for a balanced load.
      balance_weight_G: float32, the weight of each group in the mean of that loss.
      num_experts: E.
      capacity: C, the number of tokens that an expert takes from a group.
    """

    expert_index_GKS: tf.Tensor
    position_GKS: tf.Tensor
    kept_GKS: tf.Tensor
    gate_GKS: tf.Tensor
    chosen_GSE: tf.Tensor
    logits_GSE: tf.Tensor
    probabilities_GSE: tf.Tensor
    nonpadding_GS: tf.Tensor
    load_balancing_loss_G: tf.Tensor
    balance_weight_G: tf.Tensor
    num_experts: int
    capacity: int

    @property
    def kept_GS(self) -> tf.Tensor:
        """Whether any expert took the token, bool."""
        return tf.reduce_any(self.kept_GKS, axis=1)


def place(expert_index_GKS, wanted_GKS, num_experts: int, capacity: int, once: bool = False):
    """Assigns positions in the experts' buffers, choice by choice, each in token order.

    Args:
      expert_index_GKS: int32, the k-th chosen expert.
      wanted_GKS: float32, 1 for choices made, 0 for padding and choices not made.
      num_experts: E.
      capacity: C.
      once: whether a token makes no further choice once an expert has taken it.

    Returns:
      position_GKS, int32, and kept_GKS, bool; see `Routing`.
    """
    positions, kept, filled_GE = [], [], 0.0
    free_GS = tf.ones_like(wanted_GKS[:, 0])
    for k in range(expert_index_GKS.shape[1]):
        wanted_GS = wanted_GKS[:, k] * free_GS
        mask_GSE = tf.one_hot(expert_index_GKS[:, k], num_experts, dtype=wanted_GS.dtype)
        mask_GSE *= tf.expand_dims(wanted_GS, -1)
        # Exclusive, so that the first token of an expert gets position 0.
        before_GSE = tf.cumsum(mask_GSE, axis=1, exclusive=True) + filled_GE
        position_GS = tf.reduce_sum(before_GSE * mask_GSE, axis=-1)
        kept_GS = (position_GS < tf.cast(capacity, position_GS.dtype)) & (wanted_GS > 0)
        positions.append(tf.cast(position_GS, tf.int32))
        kept.append(kept_GS)
        if k + 1 < expert_index_GKS.shape[1]:
            took_GSE = mask_GSE * tf.expand_dims(tf.cast(kept_GS, wanted_GS.dtype), -1)
            filled_GE += tf.reduce_sum(took_GSE, axis=1, keepdims=True)
            if once:
                free_GS *= 1.0 - tf.cast(kept_GS, wanted_GS.dtype)
    return tf.stack(positions, axis=1), tf.stack(kept, axis=1)


@dataclasses.dataclass(frozen=True)
class Report:
    """One Switch layer's contribution to the loss and to the log, per group.

    Attributes:
      name: path of the layer.
      routing: its router's decision.
      load_balancing_coef, z_loss_coef: weights of the two losses.
      by_tokens: whether both losses are means over tokens rather than over groups or positions.
      known_loss: the loss if it was computed before, with its gradient; see `rematerialize`.
    """

    name: str
    routing: Routing
    load_balancing_coef: float
    z_loss_coef: float
    by_tokens: bool = True
    known_loss: tf.Tensor | None = None

    def loss(self):
        """The weighted load-balancing loss (mean over groups) and z-loss (mean over tokens)."""
        if self.known_loss is not None:
            return self.known_loss
        r = self.routing
        weight = tf.maximum(tf.reduce_sum(r.balance_weight_G), 1.0)
        balance = tf.reduce_sum(r.load_balancing_loss_G * r.balance_weight_G) / weight
        loss = self.load_balancing_coef * balance
        if self.z_loss_coef:
            # Computed outside the layer, so the scope names the layer explicitly.
            with tf.name_scope(f"{self.name}/router/z_loss"):
                tokens = tf.maximum(tf.reduce_sum(r.nonpadding_GS), 1.0)
                z_loss = tf.reduce_sum(self._square_log_z_GS() * r.nonpadding_GS) / tokens
            loss += self.z_loss_coef * z_loss
        return loss

    def _square_log_z_GS(self):
        return tf.square(tf.reduce_logsumexp(self.routing.logits_GSE, axis=-1))

    def add_to(self, figures: Figures) -> None:
        """Adds the figures for the log as a group with the layer's name; see `layer_figures`.

        Means over groups form one vector, so that a mesh needs only one all-reduce.
        """
        r = self.routing
        log_p_GSE = tf.nn.log_softmax(r.logits_GSE)
        entropy_GS = -tf.reduce_sum(tf.exp(log_p_GSE) * log_p_GSE, axis=-1)
        per_token_GS = {
            "tokens": tf.ones_like(entropy_GS),
            "kept": tf.cast(r.kept_GS, tf.float32),
            "entropy": entropy_GS,
            "gate": tf.reduce_sum(r.probabilities_GSE * r.chosen_GSE, axis=-1),
            "z_loss": self._square_log_z_GS(),
        }
        per_token_GSN = tf.stack(list(per_token_GS.values()), axis=-1)
        per_token_GSN = tf.concat([r.chosen_GSE, per_token_GSN], axis=-1)
        per_token_GSN *= tf.expand_dims(r.nonpadding_GS, -1)
        sums_GN = tf.reduce_sum(per_token_GSN, axis=1)
        tokens_G = tf.reduce_sum(r.nonpadding_GS, axis=1)
        per_group_G = {
            "balance": r.load_balancing_loss_G * r.balance_weight_G,
            "balance_weight": r.balance_weight_G,
            "token_balance": self._token_balance_G() * tokens_G,
        }
        per_group_GN = tf.stack(list(per_group_G.values()), axis=1)
        statistics_GN = tf.concat([sums_GN, per_group_GN], axis=1)
        means_N = tf.reduce_mean(tf.stop_gradient(statistics_GN), axis=0)
        widths = {"load_E": r.num_experts} | dict.fromkeys((*per_token_GS, *per_group_G))
        figures.add_vector(self.name, "mean", widths, means_N)
        max_logit = tf.reduce_max(tf.abs(tf.stop_gradient(r.logits_GSE)))
        figures.add(self.name, "max", {"max_logit": max_logit})
        figures.add_constants(self.name, load_balancing_coef=self.load_balancing_coef)

    def _token_balance_G(self):
        """E · sum_i f_i P_i over tokens only; 1.0 is balanced, however much padding there is."""
        r = self.routing
        nonpadding_GS1 = tf.expand_dims(r.nonpadding_GS, -1)
        shares = []
        for value_GSE in (r.chosen_GSE, r.probabilities_GSE):
            sum_GE = tf.reduce_sum(value_GSE * nonpadding_GS1, axis=1)
            total_G1 = tf.reduce_sum(sum_GE, axis=1, keepdims=True)
            shares.append(sum_GE / tf.maximum(total_G1, 1e-9))
        return tf.reduce_sum(shares[0] * shares[1], axis=1) * r.num_experts


def layer_figures(found: Mapping) -> dict:
    """The figures of a Switch layer as they are logged.

    Args:
      found: figures added by `Report.add_to`, as returned by `Figures.unpack`.

    Returns:
      load_E: fraction of tokens that chose each expert, regardless of capacity (top-2: first
      choices; other routers with several choices: all of them equally); dropped: fraction of
      tokens that no expert took; entropy: mean entropy of the router's probabilities, in nats;
      gate_mean: mean probability of the chosen expert; z_loss: unweighted; load_balancing_loss:
      unweighted, over tokens only, so that 1.0 is balanced whatever the padding; weighted_loss: the
      load-balancing loss as it entered the objective; max_logit: the largest absolute logit.
    """
    tokens = max(found["tokens"], 1e-9)
    weighted_loss = found["load_balancing_coef"] * found["balance"]
    return {
        "load_E": found["load_E"] / tokens,
        "dropped": 1.0 - found["kept"] / tokens,
        "entropy": found["entropy"] / tokens,
        "gate_mean": found["gate"] / tokens,
        "z_loss": found["z_loss"] / tokens,
        "load_balancing_loss": found["token_balance"] / tokens,
        "weighted_loss": weighted_loss / max(found["balance_weight"], 1e-9),
        "max_logit": found["max_logit"],
    }


def expert_capacity(
    group_size: int, num_experts: int, capacity_factor: float, min_capacity: int
) -> int:
    """C = max(min(S, floor(S · capacity_factor / E)), min_capacity) (paper, Eq. 3; Mesh-TF).

    >>> expert_capacity(group_size=32, num_experts=8, capacity_factor=1.25, min_capacity=4)
    5
    >>> expert_capacity(group_size=32, num_experts=8, capacity_factor=100.0, min_capacity=4)
    32

    Args:
      group_size: S, tokens per group.
      num_experts: E.
      capacity_factor: capacity relative to an even load.
      min_capacity: smallest C; values above S are cut to S.
    """
    if tf.is_tensor(group_size):
        # Of a batch whose size Keras leaves open; in float64, as Python computes.
        even = tf.cast(group_size, tf.float64) * capacity_factor / num_experts
        return tf.minimum(tf.maximum(tf.cast(even, tf.int32), min_capacity), group_size)
    capacity = min(group_size, int(group_size * capacity_factor / num_experts))
    return min(max(capacity, min_capacity), group_size)
