"""T5's multi-head attention: no biases, logits not scaled, relative positions as an added bias."""

import tensorflow as tf

from switch_tf.layers.base import Layer, Uncast, exact_dtype, lay_out
from switch_tf.layers.dropout import Dropout
from switch_tf.layers.initializers import TruncatedNormal

# Added to the logits of positions that may not be attended to. Finite, so that a row without any
# allowed position (all padding) gives no NaN; far below any logit in bfloat16 too.
MASKED = -1e9
# One axis of the originals' kernels.
MERGED_AXES = ("heads", "d_kv")


class Cache:
    """Keys and values of the positions decoded so far, of one attention layer.

    Not a tensor nest on purpose: Keras hands an opaque object through, and `call` updates it.

    Attributes:
      key_BTHK, value_BTHK: [batch, memory length, heads, d_kv]; None until the first call of an
        attention over the encoder's output, which fills them once.
      position: int32 scalar, the index that the next key and value go to; None for an attention
        over the encoder's output.
    """

    def __init__(self, key_BTHK=None, value_BTHK=None, position=None):
        self.key_BTHK = key_BTHK
        self.value_BTHK = value_BTHK
        self.position = position

    def extend(self, key_B1HK, value_B1HK):
        """Writes one position; returns all keys and values."""
        length = self.key_BTHK.shape[1]
        here_T = tf.one_hot(self.position, length, dtype=key_B1HK.dtype)
        here_1T11 = tf.reshape(here_T, [1, length, 1, 1])
        self.key_BTHK += here_1T11 * key_B1HK
        self.value_BTHK += here_1T11 * value_B1HK
        return self.key_BTHK, self.value_BTHK


class Attention(Layer):
    """softmax(q k^T + bias) v over `num_heads` heads of width `d_kv` (T5).

    Args:
      num_heads: heads.
      d_kv: width of a head.
      dropout_rate: on the attention weights; one mask a head serves all queries, as in T5.
      init_scale: s of the fan-in initialisation (paper, Sec. 2.4).
      float32_logits: whether logits and softmax are float32 in a bfloat16 model, as in
        Mesh-TensorFlow. Without, a bfloat16 logit of 9 is off by up to 0.03, its weight by 3%;
        `switch-tf bench precision` tells what it costs. Keep it on, but for measurements.
    """

    # Those that a subclass makes its inputs with.
    switch_layers = ()

    def __init__(
        self, num_heads, d_kv, dropout_rate=0.0, init_scale=1.0, float32_logits=True, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.d_kv = d_kv
        self.dropout_rate = dropout_rate
        self.init_scale = init_scale
        self.float32_logits = float32_logits
        self.dropout = Dropout(dropout_rate, (2,), name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        d_model = input_shape[-1]
        self.build_inputs(d_model)
        shape, axes = (self.num_heads, self.d_kv, d_model), ("heads", "d_kv", "d_model")
        output_init = TruncatedNormal.fan_in(self.init_scale, self.num_heads * self.d_kv)
        self.output_kernel = self.weight("output", shape, axes, output_init, MERGED_AXES)
        self.dropout.build(None)

    def build_inputs(self, d_model: int):
        """Creates what `make_query` and `make_key_value` use."""
        shape, axes = (d_model, self.num_heads, self.d_kv), ("d_model", "heads", "d_kv")
        inits = input_initializers(self.init_scale, d_model, self.d_kv)
        self.query, self.key, self.value = (
            self.weight(name, shape, axes, init, MERGED_AXES) for name, init in inits.items()
        )

    def call(
        self, x_BLM, memory_BTM=None, bias=None, cache=None, nonpadding_BL=None, training=False
    ):
        """Attends from x to memory.

        Args:
          x_BLM: [batch, length, d_model].
          memory_BTM: [batch, memory length, d_model]; None attends to x itself.
          bias: added to the logits, broadcast to [batch, heads, length, memory length]: position
            bias and masks; `Uncast`, so that it stays float32, or a tensor.
          cache: `Cache` while decoding; then length is 1 and the cache is updated.
          nonpadding_BL: 1 for a token of x, 0 for padding; a Switch layer wants to know.
          training: whether to drop attention weights.

        Returns:
          [batch, length, d_model].
        """
        query_BLHK = self.make_query(x_BLM, nonpadding_BL, training)
        source = (x_BLM if memory_BTM is None else memory_BTM, nonpadding_BL, training)
        key_BTHK, value_BTHK = self._keys_values(source, cache)
        dtype = exact_dtype(self.compute_dtype, self.float32_logits)
        query_BLHK, key_BTHK = tf.cast(query_BLHK, dtype), tf.cast(key_BTHK, dtype)
        logits_BHLT = tf.einsum("BLHK,BTHK->BHLT", query_BLHK, key_BTHK)
        if bias is not None:
            bias = bias.tensor if isinstance(bias, Uncast) else bias
            logits_BHLT += tf.cast(bias, logits_BHLT.dtype)
        weights_BHLT = tf.cast(tf.nn.softmax(logits_BHLT), self.compute_dtype)
        axes = ("batch", "heads", None, None)
        weights_BHLT = self.dropout(weights_BHLT, axes=axes, training=training)
        attended_BLHK = tf.einsum("BHLT,BTHK->BLHK", weights_BHLT, value_BTHK)
        y_BLM = tf.einsum("BLHK,HKM->BLM", attended_BLHK, self.read(self.output_kernel))
        return lay_out(y_BLM, ("batch", "length", None))

    def make_query(self, x_BLM, nonpadding_BL, training):
        """[batch, length, heads, d_kv]."""
        return tf.einsum("BLM,MHK->BLHK", x_BLM, self.read(self.query))

    def make_key_value(self, x_BTM, nonpadding_BT, training):
        """Two of [batch, memory length, heads, d_kv]."""
        key_BTHK = tf.einsum("BTM,MHK->BTHK", x_BTM, self.read(self.key))
        return key_BTHK, tf.einsum("BTM,MHK->BTHK", x_BTM, self.read(self.value))

    def _keys_values(self, source, cache):
        """Those of the source, `make_key_value`'s arguments, or what the cache has of it."""
        crosses = cache is not None and cache.position is None
        if crosses and cache.key_BTHK is not None:
            return cache.key_BTHK, cache.value_BTHK
        key_BTHK, value_BTHK = self.make_key_value(*source)
        if crosses:
            cache.key_BTHK, cache.value_BTHK = key_BTHK, value_BTHK
        elif cache is not None:
            return cache.extend(key_BTHK, value_BTHK)
        return key_BTHK, value_BTHK

    def flops(self, d_model: int, length: int, memory_length: int) -> int:
        """Forward FLOPs of one sequence: 2 a multiply-add, products only."""
        width = self.num_heads * self.d_kv
        projections = 2 * d_model * width * (2 * length + 2 * memory_length)
        return projections + 2 * 2 * length * memory_length * width

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {
            "num_heads": self.num_heads,
            "d_kv": self.d_kv,
            "dropout_rate": self.dropout_rate,
            "init_scale": self.init_scale,
            "float32_logits": self.float32_logits,
        }


def input_initializers(init_scale: float, d_model: int, d_kv: int) -> dict:
    """Initialisers of the kernels of `query`, `key` and `value`.

    T5 folds the usual 1 / sqrt(d_kv) of the logits into the queries'.
    """
    kernel_init = TruncatedNormal.fan_in(init_scale, d_model)
    query_init = TruncatedNormal.fan_in(init_scale / d_kv, d_model)
    return {"query": query_init, "key": kernel_init, "value": kernel_init}


def mask_bias(allowed):
    """0 where `allowed` (bool, any shape), `MASKED` elsewhere, float32."""
    return (1.0 - tf.cast(allowed, tf.float32)) * MASKED
