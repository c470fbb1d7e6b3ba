"""Token embedding, shared by encoder, decoder and, in T5 1.0 and Switch, the output softmax."""

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.layers.base import Layer, exact_dtype, lay_out
from switch_tf.layers.initializers import Normal, TruncatedNormal
from switch_tf.layers.products import product


class Embedding(Layer):
    """An embedding table, [vocab, d_model].

    Args:
      vocab_size: number of rows; must be divisible by the mesh dimension that shards `vocab`.
      d_model: number of columns.
      float32_logits: computes the logits of a bfloat16 model as a float32 product, as in T5X.
        Rounded to bfloat16, as in Mesh-TensorFlow, one row in thirty over a vocabulary of 32,128
        has two equal largest logits. The float32 product takes about twice the time on cores with
        bfloat16 units (`switch-tf bench precision`), but no longer on a TPU, which multiplies
        float32 as bfloat16 and accumulates in float32. Keep it on unless you compare with
        Mesh-TensorFlow.
    """

    def __init__(self, vocab_size: int, d_model: int, float32_logits: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.float32_logits = float32_logits

    def build(self, input_shape=None):
        """Creates the table; its shape does not depend on the input's."""
        # Standard deviation 1, as in T5: the first layer norm sets the scale of the activations.
        self.table = self.weight(
            "table", (self.vocab_size, self.d_model), ("vocab", "d_model"), Normal(1.0)
        )

    def call(self, ids_BL):
        """ids_BL: int32 [batch, length]; returns [batch, length, d_model]."""
        mesh = mesh_lib.current()
        if mesh is not None and mesh.ways("vocab") > 1:
            # As in Mesh-TensorFlow, rows are summed over devices; a gather would bring the whole
            # table to each of them.
            one_hot_BLV = tf.one_hot(ids_BL, self.vocab_size, dtype=self.compute_dtype)
            one_hot_BLV = lay_out(one_hot_BLV, ("batch", "length", "vocab"))
            x_BLM = product("BLV,VM->BLM", one_hot_BLV, self.read(self.table))
        else:
            # Gather first, then cast: the gradient of a gather is summed in the table's dtype, and
            # in bfloat16 a sum of ones stops growing at 256.
            rows_BLM = tf.gather(lay_out(self.table.value, (None, None)), ids_BL)
            x_BLM = tf.cast(rows_BLM, self.compute_dtype)
        return lay_out(x_BLM, ("batch", "length", None))

    def compute_output_shape(self, input_shape):
        """The shape of the ids, and d_model."""
        return (*input_shape, self.d_model)

    def logits(self, x_BLM):
        """Tied softmax logits (T5 1.0), [batch, length, vocab]: x · table^T / sqrt(d_model)."""
        dtype = exact_dtype(self.compute_dtype, self.float32_logits)
        scaled_BLM = tf.cast(x_BLM, dtype) * tf.cast(self.d_model**-0.5, dtype)
        return product("BLM,VM->BLV", scaled_BLM, tf.cast(self.table.value, dtype))

    def get_config(self):
        """Constructor arguments."""
        names = "vocab_size d_model float32_logits"
        return super().get_config() | {name: getattr(self, name) for name in names.split()}


class Softmax(Layer):
    """The untied output projection of T5 1.1: kernel [d_model, vocab], no bias.

    Args:
      vocab_size: number of logits.
      init_scale: s of the fan-in initialisation.
      float32_logits: same as in `Embedding`.
    """

    def __init__(
        self, vocab_size: int, init_scale: float = 1.0, float32_logits: bool = True, **kwargs
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.init_scale = init_scale
        self.float32_logits = float32_logits

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        d_model = input_shape[-1]
        self.kernel = self.weight(
            "kernel",
            (d_model, self.vocab_size),
            ("d_model", "vocab"),
            TruncatedNormal.fan_in(self.init_scale, d_model),
        )

    def call(self, x_BLM):
        """x_BLM: [batch, length, d_model]; returns [batch, length, vocab]; or without a length."""
        if x_BLM.shape.rank == 2:
            return self.call(x_BLM[:, tf.newaxis])[:, 0]
        dtype = exact_dtype(self.compute_dtype, self.float32_logits)
        return product("BLM,MV->BLV", tf.cast(x_BLM, dtype), tf.cast(self.kernel.value, dtype))

    def compute_output_shape(self, input_shape):
        """The input's, with the vocabulary in place of d_model."""
        return (*input_shape[:-1], self.vocab_size)

    def get_config(self):
        """Constructor arguments."""
        names = "vocab_size init_scale float32_logits"
        return super().get_config() | {name: getattr(self, name) for name in names.split()}
