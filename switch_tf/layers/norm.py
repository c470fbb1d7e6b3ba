"""T5's layer norm: scales by the root mean square, without subtracting a mean, without a bias."""

import tensorflow as tf

from switch_tf.layers.base import Layer, wide_dtype
from switch_tf.layers.initializers import Constant


class RMSNorm(Layer):
    """y = x / sqrt(mean(x²) + epsilon) · scale (Zhang & Sennrich, 2019; T5).

    Args:
      epsilon: added to the mean square, to avoid division by zero; T5 uses 1e-6.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        self.scale = self.weight("scale", input_shape[-1:], ("d_model",), Constant(1.0))

    def call(self, x_BLM):
        """x_BLM: [batch, length, d_model]; returns the same shape."""
        # bfloat16 has the range for the mean square of large activations, but not the precision:
        # the sum is accurate only in float32 (as in T5X). The scale is float32 as well, because
        # its gradient is a sum over all tokens.
        x32_BLM = tf.cast(x_BLM, wide_dtype(self.compute_dtype))
        square_BL1 = tf.reduce_mean(tf.square(x32_BLM), axis=-1, keepdims=True)
        y_BLM = x32_BLM * tf.math.rsqrt(square_BL1 + self.epsilon) * self.scale.value
        return tf.cast(y_BLM, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """The same shape."""
        return tuple(input_shape)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"epsilon": self.epsilon}
