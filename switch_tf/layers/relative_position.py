"""T5's relative position bias (Raffel et al., 2020, Sec. 2.1)."""

import math

import tensorflow as tf

from switch_tf.layers.base import Layer
from switch_tf.layers.initializers import GlorotUniform
from switch_tf.layers.products import product


def relative_position_bucket(
    relative_position, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128
):
    """Bucket of each relative position (memory position - query position).

    Half of the buckets stand for exact distances; the other half grow logarithmically up to
    `max_distance`, and larger distances all share the last one. If `bidirectional`, the upper half
    of all buckets is for positions after the query; otherwise such positions fall into bucket 0.

    Args:
      relative_position: integers of any shape.
      bidirectional: True for the encoder, False for the decoder.
      num_buckets: number of buckets, even; T5 uses 32.
      max_distance: distance from which on the last bucket is used; T5 uses 128.

    Returns:
      int32 of the same shape, in [0, num_buckets).
    """
    relative_position = tf.cast(relative_position, tf.int32)
    offset = 0
    if bidirectional:
        num_buckets //= 2
        offset = tf.cast(relative_position > 0, tf.int32) * num_buckets
        distance = tf.abs(relative_position)
    else:
        distance = tf.maximum(-relative_position, 0)
    max_exact = num_buckets // 2
    # The small constant keeps log finite at distance 0, where the exact branch is taken anyway.
    ratio = tf.math.log(tf.cast(distance, tf.float32) / max_exact + 1e-6)
    log_bucket = ratio / math.log(max_distance / max_exact) * (num_buckets - max_exact)
    far = tf.minimum(max_exact + tf.cast(log_bucket, tf.int32), num_buckets - 1)
    return offset + tf.where(distance < max_exact, distance, far)


class RelativePositionBias(Layer):
    """A learned bias for each head and bucket of distance, shared by all layers of a stack.

    Args:
      num_heads: number of heads.
      bidirectional: True for the encoder, False for the decoder.
      num_buckets: same as in `relative_position_bucket`.
      max_distance: same as in `relative_position_bucket`.
    """

    def __init__(self, num_heads, bidirectional, num_buckets=32, max_distance=128, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.bidirectional = bidirectional
        self.num_buckets = num_buckets
        self.max_distance = max_distance

    def build(self, input_shape=None):
        """Creates the table; its shape does not depend on the input's."""
        self.table = self.weight(
            "table",
            (self.num_buckets, self.num_heads),
            ("buckets", "heads"),
            GlorotUniform(self.num_buckets, self.num_heads),
        )

    def call(self, query_position_L, memory_position_T):
        """Bias for int32 positions of queries [length] and of keys [memory length].

        Returns:
          [1, heads, length, memory length]; float32 whatever the compute dtype, because its
          gradient is a sum over the batch and all layers.
        """
        distance_LT = tf.expand_dims(memory_position_T, 0) - tf.expand_dims(query_position_L, 1)
        bucket_LT = relative_position_bucket(
            distance_LT, self.bidirectional, self.num_buckets, self.max_distance
        )
        # A one-hot product rather than a gather, whose gradient would be a scatter.
        onehot_LTb = tf.one_hot(bucket_LT, self.num_buckets, dtype=tf.float32)
        bias_HLT = product("LTb,bH->HLT", onehot_LTb, self.table.value)
        return tf.expand_dims(bias_HLT, 0)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | {
            "num_heads": self.num_heads,
            "bidirectional": self.bidirectional,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
        }
