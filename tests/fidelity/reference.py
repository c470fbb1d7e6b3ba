"""A Switch Transformer in plain NumPy, written from the papers and never from the package.

It exists to be compared with, so its worth is its independence: it was written from "Switch
Transformers" (arXiv:2101.03961), T5 (arXiv:1910.10683, and T5 1.1) and Mesh-TensorFlow's
`transformer/moe.py`. The layers of `switch_tf` are not to be looked at when it is changed; only the
weights' paths are shared. Tokens are placed one by one, in loops, so that it reads like the text.

All arithmetic is float64. For a bfloat16 model the output of each operation is rounded to what
bfloat16 can hold, where Mesh-TensorFlow and the paper's selective precision (Sec. 2.4) have
bfloat16; what they keep in float32 is not rounded, float32's own error being 2**15 times smaller.

Shape suffixes: B batch, Q queries, K keys, L decoder length, T memory length, G groups, S tokens a
group, C choices of a token, E experts, M d_model, H heads, D d_kv, V vocab.
"""

import dataclasses
import math

import ml_dtypes
import numpy as np

NUM_BUCKETS = 32
MAX_DISTANCE = 128
NORM_EPSILON = 1e-6
Z_LOSS_COEF = 1e-4


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the arithmetic depends on and the weights' shapes do not tell.

    Attributes:
      num_layers: blocks of each stack.
      activation: "relu" or "geglu".
      tied_softmax: whether the logits use the embedding.
      encoder_sparse, decoder_sparse: which blocks have a Switch layer, counted from 0.
      choices: experts a token may visit: 1 (Switch) or 2 (MoE).
      group_size, groups_multiple: how tokens are cut into groups.
      capacity_factor, eval_capacity_factor, min_capacity: room of an expert.
      balance_coef, router_z_coef: weights of the routers' losses.
      bfloat16: whether activations are bfloat16.
    """

    num_layers: int = 2
    activation: str = "relu"
    tied_softmax: bool = True
    encoder_sparse: tuple[int, ...] = ()
    decoder_sparse: tuple[int, ...] = ()
    choices: int = 1
    group_size: int = 16
    groups_multiple: int = 1
    capacity_factor: float = 1.25
    eval_capacity_factor: float = 2.0
    min_capacity: int = 4
    balance_coef: float = 1e-2
    router_z_coef: float = 0.0
    bfloat16: bool = False


@dataclasses.dataclass(frozen=True)
class Routed:
    """What a Switch layer did: `expert_GSC` is -1 for padding, `kept_GSC` whether there was room,
    `gate_GSC` the weight of the expert's output, `balance` and `z` the losses before coefficients.
    """

    expert_GSC: np.ndarray
    kept_GSC: np.ndarray
    gate_GSC: np.ndarray
    balance: float
    z: float

    @property
    def dropped_GS(self):
        """Tokens, not padding, that no expert took."""
        return (self.expert_GSC[..., 0] >= 0) & ~self.kept_GSC.any(axis=-1)


def rms_norm(x, scale_M):
    """T5's layer norm: no mean subtracted, no bias."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + NORM_EPSILON) * scale_M


def softmax(logits):
    """Over the last axis; zeros where every logit is minus infinity."""
    largest = logits.max(axis=-1, keepdims=True)
    powers = np.exp(logits - np.where(np.isfinite(largest), largest, 0.0))
    return powers / np.maximum(powers.sum(axis=-1, keepdims=True), 1e-300)


def log_sum_exp(logits):
    """Over the last axis."""
    largest = logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]


def gelu_tanh(x, rounded=lambda x: x):
    """The approximation that T5 1.1 uses, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    Composed of operations, as in Mesh-TensorFlow: the output of each is rounded.
    """
    root, third = (rounded(np.array(c)) for c in (math.sqrt(2.0 / math.pi), 0.044715))
    inner = rounded(root * rounded(x + rounded(third * rounded(x**3))))
    return rounded(0.5 * x * rounded(1.0 + rounded(np.tanh(inner))))


def bucket(distance, bidirectional):
    """T5's bucket of key position minus query position.

    Half of the buckets (of one side) hold one distance each, half are logarithmic up to 128. The
    logarithms' floor is found with whole numbers: exact, and unlike any floating-point code.
    """
    count, first = NUM_BUCKETS, 0
    if bidirectional:
        count //= 2
        first = count if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = count // 2
    if distance < exact:
        return first + distance
    steps = count - exact
    step = 0
    # The next step starts where (distance / exact) >= (128 / exact) ** ((step + 1) / steps).
    while step + 1 < steps and (
        MAX_DISTANCE ** (step + 1) * exact ** (steps - step - 1) <= distance**steps
    ):
        step += 1
    return first + exact + step


def position_bias(table, length, bidirectional):
    """[H, Q, K] of a table [buckets, H]."""
    index = [[bucket(k - q, bidirectional) for k in range(length)] for q in range(length)]
    return table[np.array(index)].transpose(2, 0, 1)


def number_of_groups(tokens, group_size, groups_multiple):
    """The fewest groups of at most `group_size` that cut the tokens evenly."""
    groups = math.ceil(tokens / group_size)
    while tokens % groups or groups % groups_multiple:
        groups += 1
    return groups


def capacity(tokens, num_experts, factor, least):
    """Tokens that an expert takes from a group (Eq. 3; Mesh-TensorFlow's least)."""
    return min(max(min(tokens, math.floor(tokens * factor / num_experts)), least), tokens)


def place(expert_SC, num_experts, room):
    """Which choices find room: all first choices in the tokens' order, then all second ones."""
    taken = [0] * num_experts
    kept_SC = np.zeros(expert_SC.shape, bool)
    for choice in range(expert_SC.shape[1]):
        for token, expert in enumerate(expert_SC[:, choice]):
            if expert >= 0 and taken[expert] < room:
                kept_SC[token, choice] = True
                taken[expert] += 1
    return kept_SC


def choose(probability_SE, real_S, choices):
    """Experts (-1 for padding) and gates [S, C] of each token.

    One choice: the gate is the probability (Sec. 2.1). Two: both are divided by their sum
    (Mesh-TensorFlow's `_top_2_gating` with the policy "all").
    """
    expert_SC = np.argsort(-probability_SE, axis=-1, kind="stable")[:, :choices]
    gate_SC = np.take_along_axis(probability_SE, expert_SC, axis=-1)
    if choices == 2:
        gate_SC = gate_SC / (gate_SC.sum(axis=-1, keepdims=True) + 1e-9)
    return np.where(real_S[:, None], expert_SC, -1), gate_SC


def balance(probability_SE, first_S):
    """E * sum_i f_i P_i of one group (Eq. 4 to 6) over its tokens, which `first_S` >= 0 marks."""
    real_S = first_S >= 0
    num_experts = probability_SE.shape[1]
    total = 0.0
    for expert in range(num_experts):
        f = np.mean(first_S[real_S] == expert)
        total += f * np.mean(probability_SE[real_S, expert])
    return num_experts * total


class Reference:
    """The model.

    Args:
      settings: `Settings`.
      weights: array by path below the model's, such as "encoder/norm/scale".
    """

    def __init__(self, settings, weights):
        self.settings = settings
        self._weights = {path: np.asarray(w, np.float64) for path, w in weights.items()}
        self._rounded = {path: self._round(w) for path, w in self._weights.items()}
        self.used = set()

    def __call__(self, features, training=False):
        """Logits [B, L, V], and `Routed` by the path of its layer, in the order of the layers."""
        memory_tokens = features["encoder_input_tokens"]
        # Without packing a row holds one example; padding is example 0.
        memory_BT = features.get("encoder_segment_ids", (memory_tokens > 0).astype(int))
        targets_BL = features["decoder_target_tokens"]
        segment_BL = features.get("decoder_segment_ids", (targets_BL > 0).astype(int))
        memory_real_BT, real_BL = memory_tokens > 0, targets_BL > 0
        routed = {}

        same = memory_BT[:, :, None] == memory_BT[:, None, :]
        x_BTM = self._embed(memory_tokens)
        x_BTM = self._stack(
            "encoder", x_BTM, same & memory_real_BT[:, None, :], memory_real_BT, routed, training
        )
        length = targets_BL.shape[1]
        same = segment_BL[:, :, None] == segment_BL[:, None, :]
        causal = np.tril(np.ones((length, length), bool))
        visible = (segment_BL[:, :, None] == memory_BT[:, None, :]) & memory_real_BT[:, None, :]
        y_BLM = self._embed(features["decoder_input_tokens"])
        y_BLM = self._stack(
            "decoder", y_BLM, same & causal, real_BL, routed, training, (x_BTM, visible)
        )
        return self._logits(y_BLM), routed

    def loss(self, logits_BLV, routed, targets_BL):
        """Mean over target tokens, with the softmax' z-loss, and the routers' losses."""
        real_BL = targets_BL > 0
        log_z_BL = log_sum_exp(logits_BLV)
        right_BL = np.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
        total = np.mean((log_z_BL - right_BL + Z_LOSS_COEF * log_z_BL**2)[real_BL])
        return total + sum(self.router_loss(layer) for layer in routed.values())

    def router_loss(self, layer):
        """What a `Routed` adds to the loss."""
        return self.settings.balance_coef * layer.balance + self.settings.router_z_coef * layer.z

    def _weight(self, path, exact=False):
        """A weight as it enters an operation: as it is held if `exact`, else as activations."""
        self.used.add(path)
        return (self._weights if exact else self._rounded)[path]

    def _round(self, x):
        """An operation's output, as the activations' type holds it."""
        if not self.settings.bfloat16:
            return x
        return x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)

    def _embed(self, tokens_BL):
        return self._weight("embedding/table")[tokens_BL]

    def _norm(self, path, x):
        return self._round(rms_norm(x, self._weight(f"{path}/scale", exact=True)))

    def _logits(self, x_BLM):
        """Float32 in all models: neither the kernel nor the output is rounded."""
        if not self.settings.tied_softmax:
            return x_BLM @ self._weight("softmax/kernel", exact=True)
        scaled_BLM = x_BLM / math.sqrt(x_BLM.shape[-1])
        return scaled_BLM @ self._weight("embedding/table", exact=True).T

    def _stack(self, name, x, mask_BQK, real_BQ, routed, training, memory=None):
        """The blocks of the encoder or, with a (memory, mask over it), of the decoder."""
        table = self._weight(f"{name}/relative_position_bias/table", exact=True)
        bias_HQK = position_bias(table, x.shape[1], bidirectional=memory is None)
        sparse = getattr(self.settings, f"{name}_sparse")
        for layer in range(self.settings.num_layers):
            path = f"{name}/layer_{layer}/self_attention"
            h = self._norm(f"{path}/norm", x)
            x = self._round(x + self._attention(path, h, h, mask_BQK, bias_HQK))
            if memory is not None:
                path = f"{name}/layer_{layer}/cross_attention"
                h = self._norm(f"{path}/norm", x)
                x = self._round(x + self._attention(path, h, *memory, bias_HQK=0.0))
            path = f"{name}/layer_{layer}/feed_forward"
            h = self._norm(f"{path}/norm", x)
            if layer in sparse:
                path = f"{path}/switch_ffn"
                h, routed[path] = self._switch(path, h, real_BQ, training)
            else:
                h = self._feed_forward(f"{path}/ffn", h)
            x = self._round(x + h)
        return self._norm(f"{name}/norm", x)

    def _attention(self, path, x_BQM, memory_BKM, mask_BQK, bias_HQK):
        """No division by sqrt(d_kv), no biases; logits and softmax are float32 in all models."""

        def projected(name, inputs):
            kernel_MHD = self._weight(f"{path}/attention/{name}")
            return self._round(np.einsum("bkm,mhd->bhkd", inputs, kernel_MHD))

        query, key = projected("query", x_BQM), projected("key", memory_BKM)
        logits_BHQK = np.einsum("bhqd,bhkd->bhqk", query, key) + bias_HQK
        logits_BHQK = np.where(mask_BQK[:, None], logits_BHQK, -np.inf)
        share_BHQK = self._round(softmax(logits_BHQK))
        mixed = np.einsum("bhqk,bhkd->bqhd", share_BHQK, projected("value", memory_BKM))
        output_HDM = self._weight(f"{path}/attention/output")
        return self._round(np.einsum("bqhd,hdm->bqm", self._round(mixed), output_HDM))

    def _feed_forward(self, path, x, expert=...):
        """A dense layer, or one expert of a Switch layer."""
        if self.settings.activation == "geglu":
            gate = self._round(x @ self._weight(f"{path}/wi_0")[expert])
            h = self._round(x @ self._weight(f"{path}/wi_1")[expert])
            h = self._round(gelu_tanh(gate, self._round) * h)
        else:
            h = np.maximum(self._round(x @ self._weight(f"{path}/wi")[expert]), 0.0)
        return self._round(h @ self._weight(f"{path}/wo")[expert])

    def _switch(self, path, x_BLM, real_BL, training):
        """Tokens in the batch's order, cut into groups that are routed each by itself."""
        settings = self.settings
        groups = number_of_groups(real_BL.size, settings.group_size, settings.groups_multiple)
        x_GSM = x_BLM.reshape(groups, -1, x_BLM.shape[-1])
        real_GS = real_BL.reshape(groups, -1)
        # The router's input, weights and arithmetic are float32 in all models (Sec. 2.4).
        logits_GSE = x_GSM @ self._weight(f"{path}/router/kernel", exact=True)
        probability_GSE = softmax(logits_GSE)
        factor = settings.capacity_factor if training else settings.eval_capacity_factor
        num_experts = logits_GSE.shape[-1]
        room = capacity(real_GS.shape[1], num_experts, factor, settings.min_capacity)

        y_GSM = np.zeros_like(x_GSM)
        experts, kept, gates = [], [], []
        for group in range(groups):
            expert_SC, gate_SC = choose(probability_GSE[group], real_GS[group], settings.choices)
            kept_SC = place(expert_SC, num_experts, room)
            # Mesh-TensorFlow combines with gates of the activations' type.
            gate_SC = self._round(gate_SC) * kept_SC
            for expert in range(num_experts):
                tokens, choice = np.nonzero(kept_SC & (expert_SC == expert))
                y = self._feed_forward(f"{path}/experts", x_GSM[group, tokens], expert)
                y_GSM[group, tokens] += gate_SC[tokens, choice, None] * y
            experts.append(expert_SC)
            kept.append(kept_SC)
            gates.append(gate_SC)
        routed = Routed(
            np.stack(experts), np.stack(kept), np.stack(gates), *_losses(logits_GSE, experts)
        )
        return self._round(y_GSM).reshape(x_BLM.shape), routed


def _losses(logits_GSE, expert_GSC):
    """Balance, a mean over groups by their tokens, and z, a mean over tokens."""
    probability_GSE = softmax(logits_GSE)
    total = square = count = 0.0
    for logits_SE, probability_SE, expert_SC in zip(
        logits_GSE, probability_GSE, expert_GSC, strict=True
    ):
        real_S = expert_SC[:, 0] >= 0
        if real_S.any():
            total += real_S.sum() * balance(probability_SE, expert_SC[:, 0])
            square += np.sum(log_sum_exp(logits_SE[real_S]) ** 2)
            count += real_S.sum()
    return total / max(count, 1.0), square / max(count, 1.0)
