"""Token embedding, shared by encoder, decoder and (in T5 1.0 and Switch) the softmax."""

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.layers.base import Layer, lay_out
from switch_tf.layers.initializers import TruncatedNormal


class Embedding(Layer):
    """A table [vocab, d_model].

    Args:
      vocab_size: rows; a mesh that spreads `vocab` divides them.
      d_model: columns.
    """

    def __init__(self, vocab_size: int, d_model: int, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.d_model = d_model

    def build(self, input_shape=None):
        """The table's shape does not depend on the input's."""
        # Deviation 1 as T5: the first layer norm, not a fan-in, sets the scale of activations.
        self.table = self.weight(
            "table", (self.vocab_size, self.d_model), ("vocab", "d_model"), TruncatedNormal(1.0)
        )

    def call(self, ids_BL):
        """ids_BL: int32 [batch, length]; returns [batch, length, d_model]."""
        table_VM, mesh = self.read(self.table), mesh_lib.current()
        if mesh is not None and mesh.ways("vocab") > 1:
            # As Mesh-TensorFlow: rows are summed over devices, where a gather would bring the table
            # to each of them.
            one_hot_BLV = tf.one_hot(ids_BL, self.vocab_size, dtype=table_VM.dtype)
            one_hot_BLV = lay_out(one_hot_BLV, ("batch", "length", "vocab"))
            x_BLM = tf.einsum("BLV,VM->BLM", one_hot_BLV, table_VM)
        else:
            x_BLM = tf.gather(lay_out(table_VM, (None, None)), ids_BL)
        return lay_out(x_BLM, ("batch", "length", None))

    def logits(self, x_BLM):
        """Tied softmax: x · table^T / sqrt(d_model), [batch, length, vocab] (T5 1.0)."""
        scaled_BLM = x_BLM * tf.cast(self.d_model**-0.5, x_BLM.dtype)
        return tf.einsum("BLM,VM->BLV", scaled_BLM, self.read(self.table))

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {"vocab_size": self.vocab_size, "d_model": self.d_model}


class Softmax(Layer):
    """The untied output projection of T5 1.1: kernel [d_model, vocab], no bias.

    Args:
      vocab_size: number of logits.
      init_scale: s of the fan-in initialisation.
    """

    def __init__(self, vocab_size: int, init_scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.init_scale = init_scale

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
        """x_BLM: [batch, length, d_model]; returns [batch, length, vocab]."""
        return tf.einsum("BLM,MV->BLV", x_BLM, self.read(self.kernel))

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {
            "vocab_size": self.vocab_size,
            "init_scale": self.init_scale,
        }
