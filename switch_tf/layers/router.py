"""The Switch router: each token goes to the expert of its highest probability (paper, Sec. 2.1)."""

import tensorflow as tf

from switch_tf.layers import routing as routing_lib
from switch_tf.layers.base import Layer, configurable
from switch_tf.layers.dropout import layer_seed
from switch_tf.layers.initializers import TruncatedNormal


@configurable
class SwitchRouter(Layer):
    """Top-1 routing: h = x W, p = softmax(h), expert = argmax p, gate = p[expert].

    Its own dtype policy is float32 whatever the model's: in bfloat16 the softmax's rounding
    destabilises training (paper, Sec. 2.4, "selective precision"). Keras casts the input on entry.

    Args:
      num_experts: E.
      capacity_factor: room for tokens over an even split, in training.
      eval_capacity_factor: the same in evaluation.
      min_capacity: least tokens an expert takes from a group.
      absolute_capacity: tokens an expert takes from a group, in place of the factors.
      load_balancing_coef: alpha of the load-balancing loss.
      z_loss_coef: weight of the mean squared log-partition function of the logits.
      jitter: in training the input is multiplied by uniform(1 - jitter, 1 + jitter).
      init_scale: s of the fan-in initialisation.
    """

    def __init__(
        self,
        num_experts,
        capacity_factor=1.25,
        eval_capacity_factor=2.0,
        min_capacity=1,
        absolute_capacity=None,
        load_balancing_coef=1e-2,
        z_loss_coef=0.0,
        jitter=1e-2,
        init_scale=0.1,
        **kwargs,
    ):
        super().__init__(**({"dtype": "float32"} | kwargs))
        self.num_experts = num_experts
        self.capacity_factor = capacity_factor
        self.eval_capacity_factor = eval_capacity_factor
        self.min_capacity = min_capacity
        self.absolute_capacity = absolute_capacity
        self.load_balancing_coef = load_balancing_coef
        self.z_loss_coef = z_loss_coef
        self.jitter = jitter
        self.init_scale = init_scale

    def build(self, input_shape, nonpadding_shape=None):
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
        if routing_lib.is_dropless():
            return group_size
        if self.absolute_capacity is not None:
            return min(self.absolute_capacity, group_size)
        factor = self.capacity_factor if training else self.eval_capacity_factor
        return routing_lib.expert_capacity(group_size, self.num_experts, factor, self.min_capacity)

    def call(self, x_GSM, nonpadding_GS=None, training=False):
        """Routes every token.

        Args:
          x_GSM: [groups, group_size, d_model], cast to float32 on entry.
          nonpadding_GS: 1 for a token, 0 for padding, which takes no slot; None: all are tokens.
          training: whether to jitter, and which capacity factor holds.

        Returns:
          `Routing`.
        """
        logits_GSE = self._logits(x_GSM, training)
        probabilities_GSE = tf.nn.softmax(logits_GSE)
        if nonpadding_GS is None:
            nonpadding_GS = tf.ones_like(logits_GSE[..., 0])
        expert_index_GS = tf.argmax(probabilities_GSE, axis=-1, output_type=tf.int32)
        chosen_GSE = tf.one_hot(expert_index_GS, self.num_experts)
        mask_GSE = chosen_GSE * tf.expand_dims(nonpadding_GS, -1)
        # Exclusive, so that the first token of an expert has place 0.
        before_GSE = tf.cumsum(mask_GSE, axis=1, exclusive=True)
        position_GS = tf.reduce_sum(before_GSE * mask_GSE, axis=-1)
        capacity = self.capacity(x_GSM.shape[1], training)
        kept_GS = (position_GS < capacity) & (nonpadding_GS > 0)
        gate_GS = tf.reduce_sum(probabilities_GSE * chosen_GSE, axis=-1)
        return routing_lib.Routing(
            expert_index_GS=expert_index_GS,
            position_GS=tf.cast(position_GS, tf.int32),
            kept_GS=kept_GS,
            gate_GS=gate_GS * tf.cast(kept_GS, tf.float32),
            logits_GSE=logits_GSE,
            probabilities_GSE=probabilities_GSE,
            nonpadding_GS=nonpadding_GS,
            load_balancing_loss_G=load_balancing_loss(probabilities_GSE, chosen_GSE, nonpadding_GS),
            num_experts=self.num_experts,
            capacity=capacity,
        )

    def _logits(self, x_GSM, training):
        if training and self.jitter:
            noise_GSM = tf.random.stateless_uniform(
                x_GSM.shape, layer_seed(self), 1.0 - self.jitter, 1.0 + self.jitter
            )
            x_GSM = x_GSM * noise_GSM
        return tf.einsum("GSM,ME->GSE", x_GSM, self.read(self.kernel))

    def get_config(self):
        """Constructor arguments."""
        names = (
            "num_experts capacity_factor eval_capacity_factor min_capacity absolute_capacity "
            "load_balancing_coef z_loss_coef jitter init_scale"
        )
        return super().get_config() | {name: getattr(self, name) for name in names.split()}


def load_balancing_loss(probabilities_GSE, chosen_GSE, nonpadding_GS):
    """E · sum_i f_i P_i of each group, times its share of tokens (paper, Eq. 4-6).

    f_i is the share of positions whose highest probability is expert i, P_i the mean probability
    of expert i. Without padding a balanced load gives 1.0. As in Mesh-TensorFlow, both are means
    over all positions, padding too, and the product is scaled by the share that is not padding.

    Args:
      probabilities_GSE: the router's probabilities.
      chosen_GSE: one-hot of the chosen expert.
      nonpadding_GS: 1 for a token, 0 for padding.

    Returns:
      [groups] float32.
    """
    f_GE = tf.reduce_mean(chosen_GSE, axis=1)
    p_GE = tf.reduce_mean(probabilities_GSE, axis=1)
    share_G = tf.reduce_mean(nonpadding_GS, axis=1)
    return tf.reduce_sum(f_GE * p_GE, axis=-1) * share_G * chosen_GSE.shape[-1]
