"""A stack of pre-norm transformer blocks: the encoder, or the decoder (T5)."""

import tensorflow as tf

from switch_tf.layers.attention import Cache, mask_bias
from switch_tf.layers.base import Layer, UncastTensor
from switch_tf.layers.context import see
from switch_tf.layers.dropout import Dropout
from switch_tf.layers.norm import RMSNorm
from switch_tf.layers.relative_position import RelativePositionBias
from switch_tf.layers.rematerialize import rematerialize
from switch_tf.layers.switch_layer import SwitchLayer

_ACTIVATION = ("batch", "length", None)


class Residual(Layer):
    """x + dropout(layer(norm(x))).

    Args:
      layer: called with the normalised x and the other arguments of `call`.
      dropout_rate: dropout on the layer's output; all positions share one mask.
    """

    def __init__(self, layer, dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.norm = RMSNorm(name="norm", dtype=self.dtype_policy)
        self.layer = layer
        self.dropout = Dropout(dropout_rate, (1,), name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        self.norm.build(input_shape)
        self.layer.build(input_shape)
        self.dropout.build(None)

    def call(
        self,
        x_BLM,
        memory_BTM=None,
        bias=None,
        cache=None,
        nonpadding_BL=None,
        training=False,
    ):
        """x_BLM: [batch, length, d_model]; returns the same shape.

        Other arguments are passed on to the layer unless they are None.
        """
        given = {
            "memory_BTM": memory_BTM,
            "bias": bias,
            "cache": cache,
            "nonpadding_BL": nonpadding_BL,
        }
        given = {name: value for name, value in given.items() if value is not None}
        y_BLM = self.layer(self.norm(x_BLM), training=training, **given)
        return x_BLM + self.dropout(y_BLM, axes=_ACTIVATION, training=training)


class Block(Layer):
    """Self-attention, cross-attention to the encoder (decoder only) and feed-forward layer.

    Args:
      attention: function that makes an `Attention` from its name.
      feed_forward: a `FeedForward` or `SwitchFFN`.
      crosses: whether there is cross-attention.
      self_attention: same as `attention`, for self-attention only; None uses `attention`.
      dropout_rate: dropout on the residual branches.
    """

    def __init__(
        self,
        attention,
        feed_forward,
        crosses,
        self_attention=None,
        dropout_rate=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        shared = {"dropout_rate": dropout_rate, "dtype": self.dtype_policy}
        own = (self_attention or attention)("attention")
        self.self_attention = Residual(own, name="self_attention", **shared)
        self.cross_attention = None
        if crosses:
            self.cross_attention = Residual(
                attention("attention"), name="cross_attention", **shared
            )
        self.feed_forward = Residual(feed_forward, name="feed_forward", **shared)

    @property
    def switch_layers(self) -> list[SwitchLayer]:
        """The Switch layers of the block, in the order of computation."""
        layers = [*self.self_attention.layer.switch_layers, self.feed_forward.layer]
        return [layer for layer in layers if isinstance(layer, SwitchLayer)]

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        self.self_attention.build(input_shape)
        if self.cross_attention is not None:
            self.cross_attention.build(input_shape)
        self.feed_forward.build(input_shape)

    def call(
        self,
        x_BLM,
        bias=None,
        memory_BTM=None,
        memory_bias=None,
        nonpadding_BL=None,
        caches=(None, None),
        training=False,
    ):
        """Applies the block.

        Args:
          x_BLM: [batch, length, d_model].
          bias: bias of self-attention, `UncastTensor` float32, broadcast to [batch, heads, length,
            length].
          memory_BTM: the encoder's output, [batch, memory length, d_model].
          memory_bias: bias of cross-attention, `UncastTensor` float32, broadcast to [batch, heads,
            length, memory length].
          nonpadding_BL: 1 for tokens, 0 for padding.
          caches: `Cache` of self-attention and of cross-attention, while decoding.
          training: enables dropout and jitter, and selects the capacity factor.

        Returns:
          [batch, length, d_model].
        """
        x_BLM = self.self_attention(
            x_BLM, bias=bias, cache=caches[0], nonpadding_BL=nonpadding_BL, training=training
        )
        if self.cross_attention is not None:
            x_BLM = self.cross_attention(
                x_BLM, memory_BTM, bias=memory_bias, cache=caches[1], training=training
            )
        # A dense layer processes padding like tokens.
        known_BL = nonpadding_BL if isinstance(self.feed_forward.layer, SwitchLayer) else None
        x_BLM = self.feed_forward(x_BLM, nonpadding_BL=known_BL, training=training)
        see(self.path, x_BLM)
        return x_BLM


class Stack(Layer):
    """Blocks that share one relative position bias, followed by a norm.

    Args:
      blocks: list of `Block`s, in order.
      num_heads: number of heads of the position bias.
      causal: True for the decoder, False for the encoder.
      dropout_rate: dropout on the input and on the output.
      rematerialize: recomputes the activations within each block in the backward pass instead of
        keeping them: less memory for a third more FLOPs.
    """

    def __init__(self, blocks, num_heads, causal, dropout_rate=0.0, rematerialize=False, **kwargs):
        super().__init__(**kwargs)
        self.rematerialize = rematerialize
        policy = self.dtype_policy
        self.causal = causal
        self.blocks = blocks
        self.position_bias = RelativePositionBias(
            num_heads, bidirectional=not causal, name="relative_position_bias", dtype=policy
        )
        self.norm = RMSNorm(name="norm", dtype=policy)
        self.input_dropout = Dropout(dropout_rate, (1,), name="input_dropout", dtype=policy)
        self.output_dropout = Dropout(dropout_rate, (1,), name="output_dropout", dtype=policy)

    @property
    def switch_layers(self) -> list[SwitchLayer]:
        """The Switch layers of all blocks, in the order of computation."""
        return [layer for block in self.blocks for layer in block.switch_layers]

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        self.position_bias.build()
        for block in self.blocks:
            block.build(input_shape)
        self.norm.build(input_shape)
        self.input_dropout.build(None)
        self.output_dropout.build(None)

    def call(
        self,
        x_BLM,
        positions,
        allowed=None,
        memory_BTM=None,
        memory_allowed=None,
        nonpadding_BL=None,
        caches=None,
        training=False,
    ):
        """Applies all blocks and the final norm.

        Args:
          x_BLM: embedded tokens, [batch, length, d_model].
          positions: int32 positions of queries [length] and of keys [memory length].
          allowed: bool, keys that a query may attend to, apart from causality; broadcast to
            [batch, heads, length, length].
          memory_BTM: the encoder's output (decoder only).
          memory_allowed: same as `allowed`, for cross-attention; broadcast to [batch, heads,
            length, memory length].
          nonpadding_BL: 1 for tokens, 0 for padding.
          caches: a pair of `Cache` for each block, while decoding.
          training: enables dropout and jitter, and selects the capacity factor.

        Returns:
          [batch, length, d_model].
        """
        query_L, key_T = positions
        bias = self.position_bias(query_L, key_T)
        if self.causal:
            bias += mask_bias(tf.expand_dims(key_T, 0) <= tf.expand_dims(query_L, 1))
        if allowed is not None:
            bias += mask_bias(allowed)
        memory_bias = None if memory_allowed is None else UncastTensor(mask_bias(memory_allowed))
        x_BLM = self.input_dropout(x_BLM, axes=_ACTIVATION, training=training)
        for i, block in enumerate(self.blocks):
            given = {
                "memory_bias": memory_bias,
                "nonpadding_BL": nonpadding_BL,
                "caches": (None, None) if caches is None else caches[i],
                "training": training,
            }
            if self.rematerialize and training:
                x_BLM = _rematerialized(block, x_BLM, bias, memory_BTM, given)
            else:
                x_BLM = block(x_BLM, bias=UncastTensor(bias), memory_BTM=memory_BTM, **given)
        x_BLM = self.norm(x_BLM)
        see(self.norm.path, x_BLM)
        return self.output_dropout(x_BLM, axes=_ACTIVATION, training=training)


def _rematerialized(block, x_BLM, bias, memory_BTM, given):
    def run(x_BLM, bias, memory_BTM=None):
        return block(x_BLM, bias=UncastTensor(bias), memory_BTM=memory_BTM, **given)

    others = () if memory_BTM is None else (memory_BTM,)
    return rematerialize(run, x_BLM, bias, *others, add_loss=block.add_loss)


def new_caches(num_blocks: int, key_BHTK, position) -> list[tuple[Cache, Cache]]:
    """Empty caches of a decoder: `key_BHTK` (zeros) in self-attention, None in cross-attention."""
    return [(Cache(key_BHTK, key_BHTK, position), Cache()) for _ in range(num_blocks)]
