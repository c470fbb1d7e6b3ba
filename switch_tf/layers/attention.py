"""T5's multi-head attention: no biases, unscaled logits, relative positions as an added bias."""

import tensorflow as tf

from switch_tf.layers.base import Layer, UncastTensor, check_axes, exact_dtype, lay_out
from switch_tf.layers.dropout import Dropout
from switch_tf.layers.initializers import TruncatedNormal
from switch_tf.layers.products import product

# Added to the logits of positions that must not be attended to. Finite, so that a row without any
# allowed position (all padding) gives no NaN; far below any logit, also in bfloat16.
MASKED = -1e9
# Mesh-TensorFlow's kernels have these two as a single axis.
MERGED_AXES = ("heads", "d_kv")


class Cache:
    """Keys and values of one attention layer for the positions decoded so far.

    Deliberately not a tensor nest: Keras passes an opaque object through as it is, so `call` can
    update it in place.

    Attributes:
      key_BHTK, value_BHTK: [batch, heads, memory length, d_kv], as the products of each step
        take them. In cross-attention they are None until the first call, which fills them once.
      position: int32 scalar, index at which the next key and value are written; None in
        cross-attention.
    """

    def __init__(self, key_BHTK=None, value_BHTK=None, position=None):
        self.key_BHTK = key_BHTK
        self.value_BHTK = value_BHTK
        self.position = position

    def extend(self, key_BH1K, value_BH1K):
        """Writes the key and value of one position."""
        length = self.key_BHTK.shape[2]
        here_T = tf.one_hot(self.position, length, dtype=key_BH1K.dtype)
        here_T1 = tf.expand_dims(here_T, -1)
        self.key_BHTK += here_T1 * key_BH1K
        self.value_BHTK += here_T1 * value_BH1K

    def fill(self, key_BHTK, value_BHTK):
        """Sets the keys and values of all positions."""
        self.key_BHTK, self.value_BHTK = key_BHTK, value_BHTK


def _swap_heads(x_BLHK):
    """Swaps length and heads, in either order: [batch, length, heads, d_kv] or heads first.

    The products of attention take their operands by head. Swapped once, they serve the forward and
    the backward pass; `tf.einsum` would swap them anew for each of its products.
    """
    return tf.transpose(x_BLHK, [0, 2, 1, 3])


class Attention(Layer):
    """softmax(q k^T + bias) v over `num_heads` heads of width `d_kv` (T5).

    Args:
      num_heads: number of heads.
      d_kv: width of each head.
      dropout_rate: dropout on the attention weights; within a head, all queries share one mask, as
        in T5. 0 is usual in pre-training, 0.1 in fine-tuning.
      init_scale: s of the fan-in initialisation (paper, Sec. 2.4).
      float32_logits: computes logits and softmax in float32 in a bfloat16 model, as
        Mesh-TensorFlow does. In bfloat16 a logit of 9 is off by up to 0.03, and its attention
        weight by 3%. `switch-tf bench precision` measures the cost; turn it off only to measure.
    """

    # Switch layers with which a subclass computes its queries, keys and values.
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
        """Creates the weights that `make_query` and `make_key_value` use."""
        shape, axes = (d_model, self.num_heads, self.d_kv), ("d_model", "heads", "d_kv")
        inits = input_initializers(self.init_scale, d_model, self.d_kv)
        self.query, self.key, self.value = (
            self.weight(name, shape, axes, init, MERGED_AXES) for name, init in inits.items()
        )

    def call(
        self, x_BLM, memory_BTM=None, bias=None, cache=None, nonpadding_BL=None, training=False
    ):
        """Attends from x to the memory.

        Args:
          x_BLM: [batch, length, d_model].
          memory_BTM: [batch, memory length, d_model]; None attends to x itself.
          bias: position bias and masks, added to the logits and broadcast to [batch, heads,
            length, memory length]; a tensor, or an `UncastTensor` to keep it in float32.
          cache: `Cache` to update while decoding, when length is 1; otherwise None.
          nonpadding_BL: 1 for tokens of x, 0 for padding; used only by Switch layers.
          training: whether to apply dropout.

        Returns:
          [batch, length, d_model].
        """
        check_axes(self, x_BLM, "[batch, length, d_model]")
        query_BHLK = _swap_heads(self.make_query(x_BLM, nonpadding_BL, training))
        source = (x_BLM if memory_BTM is None else memory_BTM, nonpadding_BL, training)
        key_BHTK, value_BHTK = self._keys_values(source, cache)
        dtype = exact_dtype(self.compute_dtype, self.float32_logits)
        query_BHLK, key_BHTK = tf.cast(query_BHLK, dtype), tf.cast(key_BHTK, dtype)
        logits_BHLT = product("BHLK,BHTK->BHLT", query_BHLK, key_BHTK)
        if bias is not None:
            bias = bias.tensor if isinstance(bias, UncastTensor) else bias
            logits_BHLT += tf.cast(bias, logits_BHLT.dtype)
        weights_BHLT = tf.cast(tf.nn.softmax(logits_BHLT), self.compute_dtype)
        noise_axes = ("batch", "heads", None, None)
        weights_BHLT = self.dropout(weights_BHLT, axes=noise_axes, training=training)
        attended_BLHK = _swap_heads(product("BHLT,BHTK->BHLK", weights_BHLT, value_BHTK))
        y_BLM = product("BLHK,HKM->BLM", attended_BLHK, self.read(self.output_kernel))
        return lay_out(y_BLM, ("batch", "length", None))

    def make_query(self, x_BLM, nonpadding_BL, training):
        """Returns the queries, [batch, length, heads, d_kv]."""
        return product("BLM,MHK->BLHK", x_BLM, self.read(self.query))

    def make_key_value(self, x_BTM, nonpadding_BT, training):
        """Returns keys and values, each [batch, memory length, heads, d_kv]."""
        key_BTHK = product("BTM,MHK->BTHK", x_BTM, self.read(self.key))
        return key_BTHK, product("BTM,MHK->BTHK", x_BTM, self.read(self.value))

    def _keys_values(self, source, cache):
        """Keys and values of `source` (arguments of `make_key_value`), by head.

        From the cache if there is one, which is extended or filled first.
        """
        if cache is not None and cache.position is None and cache.key_BHTK is not None:
            return cache.key_BHTK, cache.value_BHTK
        made = [_swap_heads(x_BTHK) for x_BTHK in self.make_key_value(*source)]
        if cache is None:
            return made
        if cache.position is None:
            cache.fill(*made)
        else:
            cache.extend(*made)
        return cache.key_BHTK, cache.value_BHTK

    def compute_output_shape(self, x_BLM_shape, *args, **kwargs):
        """The shape of x, whatever the others are."""
        return tuple(x_BLM_shape)

    def flops(self, d_model: int, length: int, memory_length: int) -> int:
        """Forward FLOPs of one sequence: matrix products only, 2 per multiply-add."""
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
    """Initialisers of the kernels `query`, `key` and `value`.

    T5 folds the usual 1 / sqrt(d_kv) factor of the logits into the query kernel.
    """
    kernel_init = TruncatedNormal.fan_in(init_scale, d_model)
    query_init = TruncatedNormal.fan_in(init_scale / d_kv, d_model)
    return {"query": query_init, "key": kernel_init, "value": kernel_init}


def mask_bias(allowed):
    """Returns float32: 0 where `allowed` (bool, any shape) is true, `MASKED` elsewhere."""
    return (1.0 - tf.cast(allowed, tf.float32)) * MASKED
