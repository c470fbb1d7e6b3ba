"""The Switch feed-forward layer, whose experts are feed-forward layers (paper, Sec. 2.1)."""

from typing import Annotated

from switch_tf.layers.base import Layer, configurable
from switch_tf.layers.dropout import Dropout
from switch_tf.layers.feed_forward import Activation, activate, input_kernels
from switch_tf.layers.initializers import TruncatedNormal
from switch_tf.layers.products import product
from switch_tf.layers.switch_layer import NumExperts, SwitchLayer, experts_first, spare_groups_axis
from switch_tf.rules import Count, Rate, of_model


class Experts(Layer):
    """E feed-forward layers, each applied to its own buffer of tokens.

    Args:
      num_experts: number of experts, E.
      d_ff: width of each expert's hidden layer.
      activation: "relu" or "geglu".
      dropout_rate: expert dropout, on the hidden layer inside the experts (paper, Sec. 4.2).
      init_scale: s of the fan-in initialisation.
    """

    def __init__(
        self, num_experts, d_ff, activation="relu", dropout_rate=0.0, init_scale=0.1, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.d_ff = d_ff
        self.activation = activation
        self.dropout_rate = dropout_rate
        self.init_scale = init_scale
        self.dropout = Dropout(dropout_rate, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape):
        """input_shape: [groups, experts, expert_capacity, d_model]."""
        d_model = input_shape[-1]
        shape, axes = (self.num_experts, d_model, self.d_ff), ("experts", "d_model", "d_ff")
        wi_init = TruncatedNormal.fan_in(self.init_scale, d_model)
        self.wi = [self.weight(n, shape, axes, wi_init) for n in input_kernels(self.activation)]
        wo_shape, wo_axes = (self.num_experts, self.d_ff, d_model), ("experts", "d_ff", "d_model")
        wo_init = TruncatedNormal.fan_in(self.init_scale, self.d_ff)
        self.wo = self.weight("wo", wo_shape, wo_axes, wo_init)
        self.dropout.build(None)

    def call(self, x_GECM, training=False):
        """x_GECM: [groups, experts, expert_capacity, d_model]; returns the same shape."""
        x_EGCM = experts_first(x_GECM)
        hiddens = [product("EGCM,EMF->EGCF", x_EGCM, self.read(wi_EMF)) for wi_EMF in self.wi]
        axes = ("experts", spare_groups_axis(), None, "d_ff")
        hidden_EGCF = self.dropout(activate(hiddens), axes=axes, training=training)
        y_EGCM = product("EGCF,EFM->EGCM", hidden_EGCF, self.read(self.wo))
        return experts_first(y_EGCM)

    def get_config(self):
        """Constructor arguments."""
        names = "num_experts d_ff activation dropout_rate init_scale"
        return super().get_config() | {name: getattr(self, name) for name in names.split()}


@configurable
class SwitchFFN(SwitchLayer):
    """A feed-forward layer of E experts; the router sends each token to one (paper, Sec. 2.1).

    Args:
      num_experts: number of experts, E. Parameters grow with E, FLOPs per token stay about the
        same; the paper gains from 2 up to 256 experts (Fig. 4). A multiple of the
        mesh dimension that shards experts.
      d_ff: width of each expert's hidden layer.
      activation: "relu" or "geglu".
      expert_dropout_rate: dropout on the experts' hidden layer. 0 in pre-training; in fine-tuning
        on small tasks 0.4, with 0.1 elsewhere in the model, limits overfitting (paper, Table 4).
      **kwargs: arguments of `SwitchLayer`.
    """

    def __init__(
        self,
        num_experts: NumExperts,
        d_ff: Annotated[Count, of_model("d_ff")],
        activation: Annotated[Activation, of_model("activation")] = "relu",
        expert_dropout_rate: Annotated[Rate, of_model("expert_dropout_rate")] = 0.0,
        **kwargs,
    ):
        super().__init__(num_experts, **kwargs)
        self.d_ff = d_ff
        self.activation = activation
        self.expert_dropout_rate = expert_dropout_rate
        self.experts = Experts(
            num_experts,
            d_ff,
            activation,
            expert_dropout_rate,
            self.init_scale,
            name="experts",
            dtype=self.dtype_policy,
        )

    def compute_output_shape(self, input_shape):
        """The same shape."""
        return tuple(input_shape)

    @property
    def expert_width(self) -> int:
        """d_ff · number of kernels."""
        return self.d_ff * (len(input_kernels(self.activation)) + 1)

    def get_config(self):
        """Constructor arguments."""
        names = ("d_ff", "activation", "expert_dropout_rate")
        return super().get_config() | {name: getattr(self, name) for name in names}
