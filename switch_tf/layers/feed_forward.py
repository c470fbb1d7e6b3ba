"""The dense feed-forward layer of T5: ReLU (1.0) or gated GELU (1.1)."""

from typing import Literal

import tensorflow as tf

from switch_tf.layers.base import ROWS_OR_SEQUENCES, Layer, check_axes, lay_out
from switch_tf.layers.dropout import Dropout
from switch_tf.layers.initializers import TruncatedNormal
from switch_tf.layers.products import product
from switch_tf.rules import Count, NonNegative, Rate, checked

Activation = Literal["relu", "geglu"]


def input_kernels(activation: str) -> tuple[str, ...]:
    """Names of the input kernels, as in T5: `wi`, or `wi_0` and `wi_1` if the layer is gated."""
    return ("wi_0", "wi_1") if activation == "geglu" else ("wi",)


def activate(hiddens):
    """relu(h), or gelu(h_0) · h_1 if the layer is gated (GEGLU, Shazeer, 2020).

    Args:
      hiddens: products of the input with each of `input_kernels`, all of the same shape.
    """
    if len(hiddens) == 1:
        return tf.nn.relu(hiddens[0])
    return tf.nn.gelu(hiddens[0], approximate=True) * hiddens[1]


@checked
class FeedForward(Layer):
    """y = activation(x wi) wo, without biases.

    Args:
      d_ff: width of the hidden layer.
      activation: "relu" (T5 1.0), or "geglu" (T5 1.1, and the models of the paper's Table 9),
        which has two input kernels.
      dropout_rate: dropout on the hidden layer; 0 is usual in pre-training, 0.1 in fine-tuning.
      init_scale: s of the fan-in initialisation (paper, Sec. 2.4); the paper uses 0.1 in place of
        T5's 1.0.
    """

    def __init__(
        self,
        d_ff: Count,
        activation: Activation = "relu",
        dropout_rate: Rate = 0.0,
        init_scale: NonNegative = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.d_ff = d_ff
        self.activation = activation
        self.dropout_rate = dropout_rate
        self.init_scale = init_scale
        self.dropout = Dropout(dropout_rate, (1,), name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        d_model = input_shape[-1]
        wi_init = TruncatedNormal.fan_in(self.init_scale, d_model)
        shape, axes = (d_model, self.d_ff), ("d_model", "d_ff")
        self.wi = [self.weight(n, shape, axes, wi_init) for n in input_kernels(self.activation)]
        wo_init = TruncatedNormal.fan_in(self.init_scale, self.d_ff)
        self.wo = self.weight("wo", shape[::-1], axes[::-1], wo_init)
        self.dropout.build(None)

    def call(self, x_BLM, training=False):
        """x_BLM: [batch, length, d_model], or [batch, d_model]; returns the same shape."""
        check_axes(self, x_BLM, *ROWS_OR_SEQUENCES)
        if x_BLM.shape.rank == 2:
            return self.call(x_BLM[:, tf.newaxis], training=training)[:, 0]
        hiddens = [product("BLM,MF->BLF", x_BLM, self.read(wi_MF)) for wi_MF in self.wi]
        axes = ("batch", "length", "d_ff")
        hidden_BLF = self.dropout(activate(hiddens), axes=axes, training=training)
        y_BLM = product("BLF,FM->BLM", hidden_BLF, self.read(self.wo))
        return lay_out(y_BLM, ("batch", "length", None))

    def compute_output_shape(self, input_shape):
        """The same shape."""
        return tuple(input_shape)

    def flops(self, d_model: int, length: int) -> int:
        """Forward FLOPs of one sequence: matrix products only, 2 per multiply-add."""
        return 2 * length * d_model * self.d_ff * (len(input_kernels(self.activation)) + 1)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {
            "d_ff": self.d_ff,
            "activation": self.activation,
            "dropout_rate": self.dropout_rate,
            "init_scale": self.init_scale,
        }
