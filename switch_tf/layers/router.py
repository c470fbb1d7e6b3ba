"""The base class of routers, and the Switch router: one expert per token (paper, Sec. 2.1)."""

from typing import Annotated, Literal

import keras
import tensorflow as tf

from switch_tf import rules
from switch_tf.errors import UserError
from switch_tf.layers import routing as routing_lib
from switch_tf.layers.base import Layer, configurable, sizes, wide_dtype
from switch_tf.layers.context import current_call
from switch_tf.layers.dropout import uniform
from switch_tf.layers.initializers import TruncatedNormal
from switch_tf.layers.products import product
from switch_tf.rules import Count, NonNegative, Positive, Rate, SetBy, Whole, of_model

# Exploration policies of the paper's Table 11 under Mesh-TensorFlow's names; only `SwitchRouter`
# has `sample`.
POLICIES = ("argmax", "sample", "input_dropout", "input_jitter")
# Where the number of experts of a Switch layer, and so of its router, is set.
OF_EXPERTS = SetBy("SwitchFFN.num_experts or SwitchProjection.num_experts")
# What the load-balancing loss averages over.
LOAD_BALANCING_OVER = ("tokens", "positions")
# An effective capacity factor further than this ratio from the one asked for is reported.
_NEAR = 1.25


@configurable
class Router(Layer):
    """Base class of routers: logits h = x W, p = softmax(h), capacities and losses.

    Routers compute in float32 whatever the model's dtype: in bfloat16, rounding in the softmax
    destabilises training (paper, Sec. 2.4, "selective precision"). Keras casts the input on entry.
    Weights, positions and losses are always float32. A subclass defines one method, `choose`. In
    gin, `Router.capacity_factor` and so on apply to all routers.

    Args:
      num_experts: number of experts, E.
      capacity_factor: in training, an expert's capacity relative to its share of an even load.
        Expert computation and all-to-all traffic grow with it, and fewer tokens are dropped. 1.0
        to 1.25 is a good choice: the paper's Table 1 reaches its threshold sooner than with 2.0.
      eval_capacity_factor: the capacity factor in evaluation; 2.0 drops few tokens and costs no
        training time.
      min_capacity: smallest number of tokens per group that an expert takes. Matters for small
        groups and many experts, where the factor rounds down to 0 or 1 and many tokens would be
        dropped. 4 in Mesh-TensorFlow and Flaxformer, 2 in the latter's Switch-C and Switch-XXL.
      absolute_capacity: tokens per group that an expert takes, overriding the factors. Prefer the
        factors, which fit any group size, unless capacity must not depend on padding.
      dropless: gives each expert room for a whole group, so that no token is dropped. Expert
        computation and all-to-alls then cost num_experts / capacity_factor times as much, so it
        suits few experts.
      load_balancing_coef: alpha, weight of the load-balancing loss. Too small and few experts get
        most tokens; too large and it disturbs the cross-entropy. The paper swept 1e-1 to 1e-5 and
        chose 1e-2.
      load_balancing_over: "tokens" averages over tokens and weights groups by their tokens.
        "positions" counts padding too, as Mesh-TensorFlow's gating does, so with half of the
        positions padding, most of the gradient comes from padding. Use it only to compare with
        Mesh-TensorFlow (whose model, unlike ours, zeroes padding before each layer).
      z_loss_coef: weight of the router z-loss, the mean over tokens of the squared log-partition
        function, which keeps router logits small. 0 as in the paper, or 1e-3 as in ST-MoE. Not
        multiplied by alpha, unlike Mesh-TensorFlow's `moe_z_loss`.
      init_scale: s of the fan-in initialisation; the paper's 0.1 is more stable than 1.0 (Table 3).
      policy: exploration in training, one of `policies` (paper, Table 11): `argmax` (none), or
        `input_dropout` or `input_jitter`, which perturb the input of the router but not that of
        the experts. None uses the class's default: the paper's best, `input_jitter`, where
        Mesh-TensorFlow has it.
      eval_policy: exploration in evaluation; keep `argmax` for repeatable outputs.
      jitter: `input_jitter` multiplies the input by uniform(1 - jitter, 1 + jitter); paper: 1e-2.
      input_dropout_rate: rate of `input_dropout`; 0.1 as in Mesh-TensorFlow.
      dtype: dtype of noise, logits and softmax. Keep "float32"; "bfloat16" reproduces the arm of
        the paper's Table 2 that diverges. In a layer whose policy is float64 it is float64.

    Raises:
      UserError: a number is too small, or the dtype or a policy is unknown.
    """

    # Whether a token makes no further choice once an expert has taken it.
    once = False
    # Number of experts whose work a token costs; see `SwitchLayer.flops`.
    experts_per_token = 1
    # Whether a decoder may use it, that is, whether routing a token ignores later tokens.
    in_decoder = True
    policies = tuple(name for name in POLICIES if name != "sample")
    default_policy = "argmax"

    def __init__(
        self,
        num_experts: Annotated[Count, OF_EXPERTS],
        capacity_factor: NonNegative = 1.25,
        eval_capacity_factor: NonNegative = 2.0,
        min_capacity: Whole = 4,
        absolute_capacity: Count | None = None,
        dropless: bool = False,
        load_balancing_coef: NonNegative = 1e-2,
        load_balancing_over: Literal[LOAD_BALANCING_OVER] = LOAD_BALANCING_OVER[0],
        z_loss_coef: NonNegative = 0.0,
        init_scale: Annotated[NonNegative, of_model("init_scale")] = 0.1,
        policy: Literal[POLICIES] | None = None,
        eval_policy: Literal[POLICIES] = "argmax",
        jitter: NonNegative = 1e-2,
        input_dropout_rate: Rate = 0.1,
        dtype: Literal["float32", "bfloat16", "float64"] | keras.DTypePolicy = "float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        if self.compute_dtype not in ("float32", "bfloat16", "float64"):
            raise UserError(
                f"Router.dtype='{self.compute_dtype}': give float32, or bfloat16 for the paper's "
                "arm that diverges, or float64"
            )
        self._wide = wide_dtype(self.compute_dtype)
        self.policy = self.default_policy if policy is None else policy
        # Checked here, because each class has policies of its own.
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
        # The router's experts axis is never sharded: every device routes its own tokens.
        self.kernel = self.weight(
            "kernel",
            (d_model, self.num_experts),
            ("d_model", None),
            TruncatedNormal.fan_in(self.init_scale, d_model),
        )

    def capacity(self, group_size: int, training: bool) -> int:
        """C, the number of tokens that an expert takes from a group of `group_size`."""
        if self.dropless or current_call().dropless:
            return group_size
        return self.limited_capacity(group_size, training)

    def limited_capacity(self, group_size: int, training: bool) -> int:
        """`capacity` if tokens may be dropped.

        Raises:
          UserError: the capacity is 0.
        """
        if self.absolute_capacity is not None:
            least = tf.minimum if tf.is_tensor(group_size) else min
            return least(self.absolute_capacity, group_size)
        capacity = self._by_factor(group_size, training)
        if not tf.is_tensor(capacity) and not capacity:
            raise UserError(
                f"an expert of {type(self).__name__} takes 0 of {group_size} tokens at a capacity "
                f"factor of {self.factor(training)}: raise it, or set Router.min_capacity=1"
            )
        return capacity

    def factor(self, training: bool) -> float:
        """The configured capacity factor, of training or of evaluation."""
        return self.capacity_factor if training else self.eval_capacity_factor

    def _by_factor(self, group_size: int, training: bool) -> int:
        factor = self.factor(training)
        return routing_lib.expert_capacity(group_size, self.num_experts, factor, self.min_capacity)

    def odd_factor(self, group_size: int, training: bool = True) -> float | None:
        """The effective capacity factor C · E / S if it is far from the configured one.

        They differ in small groups, because of rounding down and `min_capacity`.

        Args:
          group_size: S.
          training: selects the training or the evaluation factor.

        Returns:
          None if they are close, or if no factor applies.
        """
        if self.dropless or self.absolute_capacity is not None:
            return None
        found = self._by_factor(group_size, training) * self.num_experts / group_size
        # An expert cannot take more than all tokens of a group.
        asked = min(self.factor(training), self.num_experts)
        return None if asked / _NEAR <= found <= asked * _NEAR else found

    def call(self, x_GSM, nonpadding_GS=None, training=False):
        """Routes every token.

        Args:
          x_GSM: [groups, group_size, d_model], cast to the router's dtype on entry.
          nonpadding_GS: 1 for tokens, 0 for padding, which takes no slot; None if all are tokens.
          training: selects the exploration policy and the capacity factor.

        Returns:
          `Routing`.
        """
        with tf.name_scope("noise"):
            x_GSM = self.explore(x_GSM, training)
        with tf.name_scope("logits"):
            logits_GSE = product("GSM,ME->GSE", x_GSM, self.read(self.kernel))
        if nonpadding_GS is None:
            nonpadding_GS = tf.ones_like(logits_GSE[..., 0])
        # Cast back, because Keras has cast it to the router's dtype.
        return self.route(logits_GSE, tf.cast(nonpadding_GS, self._wide), training)

    def explore(self, x_GSM, training):
        """Applies jitter or dropout to the input if the policy asks for it."""
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
        """The exploration policy, of training or of evaluation."""
        return self.policy if training else self.eval_policy

    def route(self, logits_GSE, nonpadding_GS, training):
        """Computes the `Routing` from the logits."""
        with tf.name_scope("probabilities"):
            probabilities_GSE = tf.cast(self.normalize(logits_GSE, nonpadding_GS), self._wide)
            logits_GSE = tf.cast(logits_GSE, self._wide)
        with tf.name_scope("choice"):
            choices = self.choose(logits_GSE, probabilities_GSE, nonpadding_GS, training)
            expert_index_GKS, wanted_GKS, gate_GKS, counted_GSE = choices
        capacity = self.capacity(sizes(logits_GSE)[1], training)
        with tf.name_scope("places"):
            wanted_GKS *= tf.stack([nonpadding_GS] * wanted_GKS.shape[1], axis=1)
            position_GKS, kept_GKS = self.place(expert_index_GKS, wanted_GKS, capacity)
            gate_GKS *= tf.cast(kept_GKS, gate_GKS.dtype)
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
        """Uniform noise of shape [groups, ...], seeded by the step and the layer's path."""
        return uniform(self, shape, ("batch", *[None] * (len(shape) - 1)), low, high)

    def normalize(self, logits_GSE, nonpadding_GS):
        """Computes probabilities from logits."""
        return tf.nn.softmax(logits_GSE)

    def place(self, expert_index_GKS, wanted_GKS, capacity: int):
        """Assigns positions in the experts' buffers; see `routing.place`."""
        return routing_lib.place(
            expert_index_GKS, wanted_GKS, self.num_experts, capacity, self.once
        )

    def balance(self, probabilities_GSE, counted_GSE, expert_index_GKS, nonpadding_GS):
        """The load-balancing loss of each group, [groups]."""
        over = self.load_balancing_over
        return load_balancing_loss(probabilities_GSE, counted_GSE, nonpadding_GS, over)

    def group_weights(self, nonpadding_GS):
        """The weight of each group in the mean load-balancing loss, [groups]."""
        if self.load_balancing_over == "tokens":
            return tf.reduce_sum(nonpadding_GS, axis=1)
        return tf.ones_like(nonpadding_GS[:, 0])

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """Chooses the experts of each token, regardless of capacity.

        Args:
          logits_GSE, probabilities_GSE: float32.
          nonpadding_GS: 1 for tokens, 0 for padding, which the caller masks again afterwards.
          training: selects the exploration policy.

        Returns:
          expert_index_GKS, int32; wanted_GKS, float32, 0 for choices not made; gate_GKS, float32;
          counted_GSE, float32, each token's choices as the load-balancing loss counts them, with
          rows that sum to 1.

        Raises:
          UserError: called on the base class.
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
      num_experts: number of experts, E.
      temperature: the policy `sample` draws the expert from softmax(h / temperature). Higher
        values explore more; `sample` was the worst policy in the paper (Table 11).
      **kwargs: arguments of `Router`.

    Raises:
      UserError: a temperature that is not above 0; also see `Router`.
    """

    policies = POLICIES
    default_policy = "input_jitter"

    def __init__(self, num_experts: Count, temperature: Positive = 1.0, **kwargs):
        super().__init__(num_experts, **kwargs)
        self.temperature = temperature

    def choose(self, logits_GSE, probabilities_GSE, nonpadding_GS, training):
        """Chooses one expert per token."""
        scores_GSE = probabilities_GSE
        if self.policy_in(training) == "sample":
            # The Gumbel trick: the argmax of logits plus noise is a draw from their softmax.
            uniform_GSE = self.uniform(sizes(logits_GSE), 1e-20)
            gumbel_GSE = -tf.math.log(-tf.math.log(uniform_GSE))
            scores_GSE = tf.stop_gradient(logits_GSE) / self.temperature + gumbel_GSE
        expert_index_GS = tf.argmax(scores_GSE, axis=-1, output_type=tf.int32)
        return one_choice(expert_index_GS, probabilities_GSE)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"temperature": self.temperature}


def one_choice(expert_index_GS, probabilities_GSE):
    """The result of `Router.choose` for one expert per token, with its probability as the gate.

    Args:
      expert_index_GS: int32.
      probabilities_GSE: the router's probabilities.
    """
    chosen_GSE = tf.one_hot(
        expert_index_GS, probabilities_GSE.shape[-1], dtype=probabilities_GSE.dtype
    )
    # Stacked, because on a mesh the gradient of expanding a middle axis is an all-gather.
    gate_G1S = tf.stack([tf.reduce_sum(probabilities_GSE * chosen_GSE, axis=-1)], axis=1)
    return tf.stack([expert_index_GS], axis=1), tf.ones_like(gate_G1S), gate_G1S, chosen_GSE


def load_balancing_loss(
    probabilities_GSE, chosen_GSE, nonpadding_GS, over: str = LOAD_BALANCING_OVER[0]
):
    """E · sum_i f_i P_i of each group (paper, Eq. 4-6).

    f_i is the fraction of tokens that choose expert i, regardless of capacity, and P_i the mean
    probability of expert i. A balanced load gives 1.0.

    Args:
      probabilities_GSE: the router's probabilities.
      chosen_GSE: one-hot of the chosen expert.
      nonpadding_GS: 1 for tokens, 0 for padding.
      over: "tokens"; or, as in Mesh-TensorFlow, "positions": both means are over all positions,
        padding included, and their product is scaled by the fraction that is not padding.

    Returns:
      [groups] float32; over tokens, 0 for a group without tokens.
    """
    tokens_G = tf.reduce_sum(nonpadding_GS, axis=1)
    if over == "tokens":
        nonpadding_GS1 = tf.expand_dims(nonpadding_GS, -1)
        scale_G = 1.0 / tf.square(tf.maximum(tokens_G, 1.0))
        sums = (chosen_GSE * nonpadding_GS1, probabilities_GSE * nonpadding_GS1)
    else:
        size = tf.cast(sizes(nonpadding_GS)[1], tokens_G.dtype)
        scale_G = tokens_G / size**3
        sums = (chosen_GSE, probabilities_GSE)
    f_GE, p_GE = (tf.reduce_sum(value_GSE, axis=1) for value_GSE in sums)
    return tf.reduce_sum(f_GE * p_GE, axis=-1) * scale_G * chosen_GSE.shape[-1]
