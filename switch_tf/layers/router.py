"""The routers' base, and the Switch router: a token goes to one expert (paper, Sec. 2.1)."""

from typing import Literal

import keras
import tensorflow as tf

from switch_tf import rules
from switch_tf.errors import UserError
from switch_tf.layers import routing as routing_lib
from switch_tf.layers.base import Layer, configurable, sizes
from switch_tf.layers.context import current_call
from switch_tf.layers.dropout import uniform
from switch_tf.layers.initializers import TruncatedNormal
from switch_tf.rules import Count, NonNegative, Positive, Rate, Whole

# Exploration policies of the paper's Table 11, by Mesh-TensorFlow's names; `sample` is
# `SwitchRouter`'s alone.
POLICIES = ("argmax", "sample", "input_dropout", "input_jitter")
# What the load-balancing loss is a mean over.
LOAD_BALANCING_OVER = ("tokens", "positions")
# A capacity factor that differs from the one asked for by more than this is told.
_NEAR = 1.25


@configurable
class Router(Layer):
    """What all routers share: logits h = x W, p = softmax(h), capacities, losses.

    Its own dtype is float32 whatever the model's: in bfloat16 the softmax's rounding destabilises
    training (paper, Sec. 2.4, "selective precision"). Keras casts the input on entry. Weights,
    places and losses are float32 in any case. A subclass is one method, `choose`. In gin,
    `Router.capacity_factor` and so on hold for all routers.

    Args:
      num_experts: E.
      capacity_factor: room for tokens over an even split, in training.
      eval_capacity_factor: the same in evaluation.
      min_capacity: least tokens an expert takes from a group: 4 in Mesh-TensorFlow and Flaxformer,
        2 in its Switch-C and -XXL. It matters in small groups of many experts, where the factor
        gives 0 or 1 by rounding, and many tokens are dropped.
      absolute_capacity: tokens an expert takes from a group, in place of the factors.
      dropless: whether an expert takes a whole group, so that no token is dropped. Experts and
        all-to-alls then cost num_experts / capacity_factor times as much.
      load_balancing_coef: alpha of the load-balancing loss; the paper's 1e-2 was the largest that
        did not disturb the training loss.
      load_balancing_over: "tokens": shares and means are of tokens, and groups weigh by their
        tokens. "positions": padding counts in both shares, as in Mesh-TensorFlow's gating; where
        half of the positions are padding, most of the loss's gradient is then padding's. Only for
        comparisons with it (its model zeroes padding before each layer, ours does not).
      z_loss_coef: weight of the mean squared log-partition function of the logits over tokens
        (ST-MoE: 1e-3). It is not multiplied by alpha, as Mesh-TensorFlow's `moe_z_loss` is.
      init_scale: s of the fan-in initialisation.
      policy: how training explores, one of `policies` (paper, Table 11): `argmax` not at all,
        `input_dropout` and `input_jitter` change the router's input, not the experts'. None: the
        class's own, `input_jitter` where Mesh-TensorFlow has it, which was the paper's best.
      eval_policy: the same in evaluation.
      jitter: `input_jitter` multiplies the input by uniform(1 - jitter, 1 + jitter).
      input_dropout_rate: of `input_dropout`.
      dtype: of noise, logits and softmax; "bfloat16" is the paper's Table 2, not for use.

    Raises:
      UserError: a number that is too small, another dtype, an unknown policy.
    """

    # Whether a token that an expert took tries no other.
    once = False
    # Experts whose work a token costs; see `SwitchLayer.flops`.
    experts_per_token = 1
    # Whether it may stand in a decoder: whether a token is taken whatever comes after it.
    in_decoder = True
    policies = tuple(name for name in POLICIES if name != "sample")
    default_policy = "argmax"

    def __init__(
        self,
        num_experts: Count,
        capacity_factor: NonNegative = 1.25,
        eval_capacity_factor: NonNegative = 2.0,
        min_capacity: Whole = 4,
        absolute_capacity: Count | None = None,
        dropless: bool = False,
        load_balancing_coef: NonNegative = 1e-2,
        load_balancing_over: Literal[LOAD_BALANCING_OVER] = LOAD_BALANCING_OVER[0],
        z_loss_coef: NonNegative = 0.0,
        init_scale: NonNegative = 0.1,
        policy: str | None = None,
        eval_policy: str = "argmax",
        jitter: NonNegative = 1e-2,
        input_dropout_rate: Rate = 0.1,
        dtype: str | keras.DTypePolicy = "float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise UserError(
                f"Router.dtype='{self.compute_dtype}': give float32, or bfloat16 for the paper's "
                "arm that diverges"
            )
        self.policy = self.default_policy if policy is None else policy
        # Of all policies, those of the class.
        for name, value in (("policy", self.policy), ("eval_policy", eval_policy)):
            rules.check(f"{type(self).__name__}.{name}", value, Literal[self.policies])
        self.num_experts = num_experts
        self.capacity_factor = capacity_factor
        self.eval_capacity_factor = eval_capacity_factor
        self.min_capacity = min_capacity
        self.absolute_capacity = absolute_capacity
        self.dropless = dropless
        self.load_balancing_coef = load_balancing_coef
        self.load_balancing_over = load_balancing_over
        self.z_loss_coef = z_loss_coef
        self.init_scale = init_scale
        self.eval_policy = eval_policy
        self.jitter = jitter
        self.input_dropout_rate = input_dropout_rate

    def build(self, input_shape):
        """input_shape: [groups, group_size, d_model]."""
        d_model = input_shape[-1]
        # The experts axis of the router is never sharded: every device routes its own tokens.
        self.kernel = self.weight(
            "kernel",
            (d_model, self.num_experts),
            ("d_model", None),
            TruncatedNormal.fan_in(self.init_scale, d_model),
        )

    def capacity(self, group_size: int, training: bool) -> int:
        """C, tokens an expert takes from a group of `group_size`."""
        if self.dropless or current_call().dropless:
            return group_size
        return self.limited_capacity(group_size, training)

    def limited_capacity(self, group_size: int, training: bool) -> int:
        """`capacity` where tokens may be dropped.

        Raises:
          UserError: an expert takes none.
        """
        if self.absolute_capacity is not None:
            return min(self.absolute_capacity, group_size)
        capacity = self._by_factor(group_size, training)
        if not capacity:
            raise UserError(
                f"an expert of {type(self).__name__} takes 0 of {group_size} tokens at a capacity "
                f"factor of {self.factor(training)}: raise it, or set Router.min_capacity=1"
            )
        return capacity

    def factor(self, training: bool) -> float:
        """The capacity factor asked for in training, or in evaluation."""
        return self.capacity_factor if training else self.eval_capacity_factor

    def _by_factor(self, group_size: int, training: bool) -> int:
        factor = self.factor(training)
        return routing_lib.expert_capacity(group_size, self.num_experts, factor, self.min_capacity)

    def odd_factor(self, group_size: int, training: bool = True) -> float | None:
        """The capacity factor that C really is, where that is far from the one asked for.

        C · E / S differs from it where groups are small: by rounding down, and by `min_capacity`.

        Args:
          group_size: S.
          training: which factor holds.

        Returns:
          None where they are near, or no factor is asked for.
        """
        if self.dropless or self.absolute_capacity is not None:
            return None
        found = self._by_factor(group_size, training) * self.num_experts / group_size
        # More than all tokens of a group are not there to be taken.
        asked = min(self.factor(training), self.num_experts)
        return None if asked / _NEAR <= found <= asked * _NEAR else found

    def call(self, x_GSM, nonpadding_GS=None, training=False):
        """Routes every token.

        Args:
          x_GSM: [groups, group_size, d_model], cast to float32 on entry.
          nonpadding_GS: 1 for a token, 0 for padding, which takes no slot; None: all are tokens.
          training: whether to explore, and which capacity factor holds.

        Returns:
          `Routing`.
        """
        with tf.name_scope("noise"):
            x_GSM = self.explore(x_GSM, training)
        with tf.name_scope("logits"):
            logits_GSE = tf.einsum("GSM,ME->GSE", x_GSM, self.read(self.kernel))
        if nonpadding_GS is None:
            nonpadding_GS = tf.ones_like(logits_GSE[..., 0])
        # Keras has cast it to the router's dtype.
        return self.route(logits_GSE, tf.cast(nonpadding_GS, tf.float32), training)

    def explore(self, x_GSM, training):
        """The input with jitter or dropout, where the policy says so."""
        policy = self.policy_in(training)
        if policy == "input_jitter" and self.jitter:
            low, high = 1.0 - self.jitter, 1.0 + self.jitter
            noise_GSM = self.uniform(sizes(x_GSM), low, high)
            return x_GSM * tf.cast(noise_GSM, x_GSM.dtype)
        if policy == "input_dropout":
            keep = 1.0 - self.input_dropout_rate
            noise_GSM = self.uniform(sizes(x_GSM))
            return x_GSM * tf.cast(noise_GSM < keep, x_GSM.dtype) / keep
        return x_GSM

    def policy_in(self, training) -> str:
        """The exploration policy of training or of evaluation."""
        return self.policy if training else self.eval_policy

    def route(self, logits_GSE, nonpadding_GS, training):
        """`Routing` by logits."""
        with tf.name_scope("probabilities"):
            probabilities_GSE = tf.cast(self.normalize(logits_GSE, nonpadding_GS), tf.float32)
            logits_GSE = tf.cast(logits_GSE, tf.float32)
        with tf.name_scope("choice"):
            choices = self.choose(logits_GSE, probabilities_GSE, nonpadding_GS, training)
            expert_index_GKS, wanted_GKS, gate_GKS, counted_GSE = choices
        capacity = self.capacity(logits_GSE.shape[1], training)
        with tf.name_scope("places"):
            wanted_GKS *= tf.stack([nonpadding_GS] * wanted_GKS.shape[1], axis=1)
            position_GKS, kept_GKS = self.place(expert_index_GKS, wanted_GKS, capacity)
            gate_GKS *= tf.cast(kept_GKS, tf.float32)
        with tf.name_scope("load_balancing_loss"):
            balance_G = self.balance(
                probabilities_GSE, counted_GSE, expert_index_GKS, nonpadding_GS
            )
        return routing_lib.Routing(
            expert_index_GKS=expert_index_GKS,
            position_GKS=position_GKS,
            kept_GKS=kept_GKS,
            gate_GKS=gate_GKS,
            chosen_GSE=counted_GSE,
            logits_GSE=logits_GSE,
            probabilities_GSE=probabilities_GSE,
            nonpadding_GS=nonpadding_GS,
            load_balancing_loss_G=balance_G,
            balance_weight_G=self.group_weights(nonpadding_GS),
            num_experts=self.num_experts,
            capacity=capacity,
        )

    def uniform(self, shape, low=0.0, high=1.0):
        """Noise of a shape [groups, ...], drawn from the step's seed and the layer's path."""
        return uniform(self, shape, ("batch", *[None] * (len(shape) - 1)), low, high)

    def normalize(self, logits_GSE, nonpadding_GS):
        """Probabilities by logits."""
        return tf.nn.softmax(logits_GSE)

    def place(self, expert_index_GKS, wanted_GKS, capacity: int):
        """Places in the experts' buffers, as `routing.place`."""
        return routing_lib.place(
            expert_index_GKS, wanted_GKS, self.num_experts, capacity, self.once
        )

    def balance(self, probabilities_GSE, counted_GSE, expert_index_GKS, nonpadding_GS):
        """The load-balancing loss of each group."""
        over = self.load_balancing_over
        return load_balancing_loss(probabilities_GSE, counted_GSE, nonpadding_GS, over)

    def group_weights(self, nonpadding_GS):
        """[groups], what each group weighs in the mean of the load-balancing loss."""
        if self.load_balancing_over == "tokens":
            return tf.reduce_sum(nonpadding_GS, axis=1)
        return tf.ones_like(nonpadding_GS[:, 0])

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """The experts that each token is to visit, before any capacity.

        Args:
          logits_GSE, probabilities_GSE: float32.
          nonpadding_GS: 1 for a token, 0 for padding, which is masked after the choice, too.
          training: whether to explore.

        Returns:
          expert_index_GKS int32; wanted_GKS float32, 0 for choices not made; gate_GKS float32;
          counted_GSE float32, what the load-balancing loss counts, rows that sum to 1.

        Raises:
          UserError: of the base class.
        """
        raise UserError(
            "Router itself chooses no experts: set SwitchLayer.router to one that does, such as "
            "@SwitchRouter"
        )

    def get_config(self):
        """Constructor arguments."""
        names = (
            "num_experts capacity_factor eval_capacity_factor min_capacity absolute_capacity "
            "dropless load_balancing_coef load_balancing_over z_loss_coef init_scale policy "
            "eval_policy jitter input_dropout_rate"
        )
        return super().get_config() | {name: getattr(self, name) for name in names.split()}


@configurable
class SwitchRouter(Router):
    """Top-1 routing: expert = argmax p, gate = p[expert] (paper, Eq. 2).

    Args:
      num_experts: E.
      temperature: of the policy `sample`, which draws the expert from softmax(h / temperature).
      **kwargs: of `Router`.

    Raises:
      UserError: a temperature that is not above 0, and as `Router`.
    """

    policies = POLICIES
    default_policy = "input_jitter"

    def __init__(self, num_experts: Count, temperature: Positive = 1.0, **kwargs):
        super().__init__(num_experts, **kwargs)
        self.temperature = temperature

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """One expert a token."""
        scores_GSE = probabilities_GSE
        if self.policy_in(training) == "sample":
            # The Gumbel trick: argmax of logits + noise draws from their softmax.
            uniform_GSE = self.uniform(sizes(logits_GSE), 1e-20)
            gumbel_GSE = -tf.math.log(-tf.math.log(uniform_GSE))
            scores_GSE = tf.stop_gradient(logits_GSE) / self.temperature + gumbel_GSE
        expert_index_GS = tf.argmax(scores_GSE, axis=-1, output_type=tf.int32)
        return one_choice(expert_index_GS, probabilities_GSE)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"temperature": self.temperature}


def one_choice(expert_index_GS, probabilities_GSE):
    """What `Router.choose` returns where a token visits one expert, with its probability as gate.

    Args:
      expert_index_GS: int32.
      probabilities_GSE: the router's probabilities.
    """
    chosen_GSE = tf.one_hot(expert_index_GS, probabilities_GSE.shape[-1])
    # Stacked: on a mesh, the gradient of a new axis in the middle is an all-gather.
    gate_G1S = tf.stack([tf.reduce_sum(probabilities_GSE * chosen_GSE, axis=-1)], axis=1)
    return tf.stack([expert_index_GS], axis=1), tf.ones_like(gate_G1S), gate_G1S, chosen_GSE


def load_balancing_loss(
    probabilities_GSE, chosen_GSE, nonpadding_GS, over: str = LOAD_BALANCING_OVER[0]
):
    """E · sum_i f_i P_i of each group (paper, Eq. 4-6).

    f_i is the share of tokens that choose expert i, before any capacity, P_i the mean probability
    of expert i: a balanced load gives 1.0.

    Args:
      probabilities_GSE: the router's probabilities.
      chosen_GSE: one-hot of the chosen expert.
      nonpadding_GS: 1 for a token, 0 for padding.
      over: "tokens"; or, as in Mesh-TensorFlow, "positions": both are means over all positions,
        padding too, and the product is scaled by the share that is not padding.

    Returns:
      [groups] float32; over tokens, 0 of a group without any.
    """
    tokens_G = tf.reduce_sum(nonpadding_GS, axis=1)
    if over == "tokens":
        nonpadding_GS1 = tf.expand_dims(nonpadding_GS, -1)
        scale_G = 1.0 / tf.square(tf.maximum(tokens_G, 1.0))
        sums = (chosen_GSE * nonpadding_GS1, probabilities_GSE * nonpadding_GS1)
    else:
        size = tf.cast(sizes(nonpadding_GS)[1], tf.float32)
        scale_G = tokens_G / size**3
        sums = (chosen_GSE, probabilities_GSE)
    f_GE, p_GE = (tf.reduce_sum(value_GSE, axis=1) for value_GSE in sums)
    return tf.reduce_sum(f_GE * p_GE, axis=-1) * scale_G * chosen_GSE.shape[-1]
