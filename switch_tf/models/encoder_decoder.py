"""The T5 / Switch Transformer encoder-decoder (paper, Sec. 2; T5: Raffel et al., 2020)."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Annotated

import keras
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.layers.attention import Attention
from switch_tf.layers.base import Layer, configurable, registered
from switch_tf.layers.context import model_seed, see
from switch_tf.layers.embedding import Embedding, Softmax
from switch_tf.layers.feed_forward import Activation, FeedForward
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.models.transformer import Block, Stack
from switch_tf.rules import Axis, Count, Dtype, NonNegative, Rate, Rule, Seed, SetBy, Whole
from switch_tf.runtime import dtype_policy

ExpertFrequency = Annotated[
    Whole, Rule("0 for none, 1 for all layers sparse, 2 for every other (the paper's 1/2)")
]


def sparse_layers(num_layers: int, expert_frequency: int) -> tuple[int, ...]:
    """Indices of the sparse layers of a stack: every n-th layer, starting with the n-th.

    >>> sparse_layers(4, 2)
    (1, 3)
    >>> sparse_layers(2, 1)
    (0, 1)
    >>> sparse_layers(2, 0)
    ()

    Args:
      num_layers: number of layers in the stack.
      expert_frequency: n; 0 for no sparse layers, 1 for all, 2 for every other (the paper's 1/2).
    """
    if not expert_frequency:
        return ()
    return tuple(i for i in range(num_layers) if (i + 1) % expert_frequency == 0)


@configurable
class TransformerEncoderDecoder(Layer):
    """Encoder and decoder with a shared embedding.

    Args:
      vocab_size: number of rows of the embedding, at least the size of the vocabulary. Round it up
        so that a mesh that shards the vocabulary divides it; T5 rounds up to a multiple of 128.
      d_model: width of the embedding and between layers.
      d_kv: width of the queries, keys and values of a head.
      num_heads: number of attention heads.
      d_ff: width of the hidden layer of feed-forward layers, and of each expert.
      num_layers: number of blocks in the encoder, and in the decoder.
      activation: activation of the feed-forward layers, "relu" (T5 1.0) or "geglu" (T5 1.1, and
        the models of the paper's Table 9).
      tied_softmax: whether logits use the embedding (T5 1.0) or a kernel of their own (T5 1.1).
      dropout_rate: dropout everywhere except inside the experts. 0 is usual in pre-training, 0.1
        in fine-tuning.
      expert_frequency: n makes every n-th feed-forward layer sparse, 0 none. More sparse layers
        mean more parameters and more all-to-alls; 2, as in most of the paper's models, is a good
        choice.
      encoder_sparse_layers, decoder_sparse_layers: indices of a stack's sparse layers, from 0;
        override `expert_frequency`.
      switch_ffn: class or function that makes the feed-forward layer of sparse layers from `d_ff`,
        `activation` and `expert_dropout_rate`; None makes it dense.
      switch_attention: class or function that makes the self-attention of sparse layers, such as
        `SwitchAttention` (paper, Appendix A), which diverges in bfloat16; None makes it dense, as
        in the paper's main models.
      expert_dropout_rate: dropout inside the experts; None uses `dropout_rate`. 0.4 limits
        overfitting in fine-tuning on small tasks (paper, Table 4).
      init_scale: s of the fan-in initialisation of everything but the embedding. The paper uses
        0.1 (Sec. 2.4), which trains more stably than T5's 1.0 (Table 3).
      float32_attention_logits: see `Attention.float32_logits` (T5X's name).
      float32_softmax_logits: see `Embedding.float32_logits`. False is close to Mesh-TensorFlow,
        where cross-entropy is bfloat16 as well.
      rematerialize: recomputes each layer's activations in the backward pass instead of keeping
        them: less memory for a third more FLOPs. Turn it on if activations do not fit.
      seed: seeds the initial weights; without one, see `layers.base.Layer`.
      dtype: compute dtype, "float32" or "bfloat16"; weights are always float32. Use bfloat16 on
        TPU, and on CPU only with bfloat16 units: without, it rounds, but is no faster.
    """

    def __init__(
        self,
        vocab_size: Annotated[Count, Axis("vocab")],
        d_model: Annotated[Count, Axis("d_model")],
        d_kv: Annotated[Count, Axis("d_kv")],
        num_heads: Annotated[Count, Axis("heads")],
        d_ff: Annotated[Count, Axis("d_ff")],
        num_layers: Annotated[Count, Axis("layers")],
        activation: Activation = "relu",
        tied_softmax: bool = True,
        dropout_rate: Rate = 0.0,
        expert_frequency: ExpertFrequency = 0,
        encoder_sparse_layers: Sequence[Whole] | None = None,
        decoder_sparse_layers: Sequence[Whole] | None = None,
        switch_ffn: Callable[..., Layer] | None = SwitchFFN,
        switch_attention: Callable[..., Attention] | None = None,
        expert_dropout_rate: Rate | None = None,
        init_scale: NonNegative = 1.0,
        float32_attention_logits: bool = True,
        float32_softmax_logits: bool = True,
        rematerialize: bool = False,
        seed: Annotated[Seed, SetBy("SEED")] | None = None,
        dtype: Dtype = "float32",
        **kwargs,
    ):
        super().__init__(**({"name": "model"} | kwargs), dtype=dtype_policy(dtype))
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.d_kv = d_kv
        self.num_heads = num_heads
        self.d_ff = d_ff
        self.num_layers = num_layers
        self.activation = activation
        self.tied_softmax = tied_softmax
        self.dropout_rate = dropout_rate
        self.expert_frequency = expert_frequency
        self.encoder_sparse_layers = encoder_sparse_layers
        self.decoder_sparse_layers = decoder_sparse_layers
        self.switch_ffn = switch_ffn
        self.switch_attention = switch_attention
        self.expert_dropout_rate = expert_dropout_rate
        self.init_scale = init_scale
        self.float32_attention_logits = float32_attention_logits
        self.float32_softmax_logits = float32_softmax_logits
        self.rematerialize = rematerialize
        self.seed = seed
        shared = {"float32_logits": float32_softmax_logits, "dtype": self.dtype_policy}
        self.embedding = Embedding(vocab_size, d_model, name="embedding", **shared)
        self.encoder = self._stack("encoder", encoder_sparse_layers, causal=False)
        self.decoder = self._stack("decoder", decoder_sparse_layers, causal=True)
        self.softmax = None
        if not tied_softmax:
            self.softmax = Softmax(vocab_size, init_scale, name="softmax", **shared)

    def _stack(self, name, sparse, causal):
        if sparse is None:
            sparse = sparse_layers(self.num_layers, self.expert_frequency)
        absent = [i for i in sparse if i not in range(self.num_layers)]
        if absent:
            raise UserError(
                f"{name}_sparse_layers={sparse}: there is no layer {absent[0]}; the {name} has "
                f"layers 0 to {self.num_layers - 1}"
            )
        blocks = [
            Block(
                attention=self._attention,
                feed_forward=self._feed_forward(i in sparse),
                crosses=causal,
                self_attention=self._self_attention if i in sparse else None,
                dropout_rate=self.dropout_rate,
                name=f"layer_{i}",
                dtype=self.dtype_policy,
            )
            for i in range(self.num_layers)
        ]
        if causal:
            _check_causal(blocks)
        return Stack(
            blocks,
            self.num_heads,
            causal,
            self.dropout_rate,
            self.rematerialize,
            name=name,
            dtype=self.dtype_policy,
        )

    def _attention(self, name, kind=Attention):
        return kind(
            num_heads=self.num_heads,
            d_kv=self.d_kv,
            dropout_rate=self.dropout_rate,
            init_scale=self.init_scale,
            float32_logits=self.float32_attention_logits,
            name=name,
            dtype=self.dtype_policy,
        )

    def _self_attention(self, name):
        return self._attention(name, self.switch_attention or Attention)

    def _feed_forward(self, sparse):
        shared = dict(
            d_ff=self.d_ff,
            activation=self.activation,
            init_scale=self.init_scale,
            dtype=self.dtype_policy,
        )
        if not sparse or self.switch_ffn is None:
            return FeedForward(dropout_rate=self.dropout_rate, name="ffn", **shared)
        rate = self.dropout_rate if self.expert_dropout_rate is None else self.expert_dropout_rate
        return self.switch_ffn(expert_dropout_rate=rate, name="switch_ffn", **shared)

    def build(self, input_shape=None):
        """Creates all weights; their shapes do not depend on the input's."""
        shape = (None, None, self.d_model)
        with contextlib.nullcontext() if self.seed is None else model_seed(self.seed):
            self.embedding.build()
            self.encoder.build(shape)
            self.decoder.build(shape)
            if self.softmax is not None:
                self.softmax.build(shape)

    def call(self, features, training=False):
        """Logits of the next token at each decoder position.

        Args:
          features: SeqIO's encoder-decoder features, each int32 [batch, length]:
            encoder_input_tokens, decoder_input_tokens, decoder_target_tokens (for the padding);
            if packed, also {encoder,decoder}_segment_ids.
          training: enables dropout and jitter, and selects the capacity factor.

        Returns:
          [batch, length, vocab] float32.
        """
        memory_BTM = self.encode(features, training=training)
        return self.decode(features, memory_BTM, training=training)

    def compute_output_shape(self, features_shape):
        """The shape of the logits."""
        return (*features_shape["decoder_input_tokens"], self.vocab_size)

    def _embed(self, tokens_BL):
        x_BLM = self.embedding(tokens_BL)
        see(self.embedding.path, x_BLM)
        return x_BLM

    def encode(self, features, training=False):
        """The encoder's output, [batch, memory length, d_model]; same arguments as `call`."""
        tokens_BT = features["encoder_input_tokens"]
        nonpadding_BT = tokens_BT > 0
        allowed = attends_to(nonpadding_BT)
        segments_BT = features.get("encoder_segment_ids")
        if segments_BT is not None:
            allowed = same_segment(segments_BT, segments_BT)
        position_T = tf.range(tokens_BT.shape[1])
        return self.encoder(
            self._embed(tokens_BT),
            (position_T, position_T),
            allowed=allowed,
            nonpadding_BL=tf.cast(nonpadding_BT, tf.float32),
            training=training,
        )

    def decode(self, features, memory_BTM, caches=None, position=None, training=False):
        """Computes logits, float32 [batch, length, vocab], from the encoder's output.

        Args:
          features: same as in `call`; decoding one position needs only encoder_input_tokens,
            decoder_input_tokens [batch, 1] and decoder_target_tokens [batch, 1] (1 for sequences
            that have not ended).
          memory_BTM: the encoder's output, [batch, memory length, d_model].
          caches: caches from `transformer.new_caches` to decode a single position; updated.
          position: int32 scalar, the position to decode.
          training: enables dropout and jitter, and selects the capacity factor.
        """
        tokens_BL = features["decoder_input_tokens"]
        memory_allowed = attends_to(features["encoder_input_tokens"] > 0)
        allowed, segments_BL = None, features.get("decoder_segment_ids")
        if segments_BL is not None:
            allowed = same_segment(segments_BL, segments_BL)
            memory_allowed = same_segment(segments_BL, features["encoder_segment_ids"])
        if caches is None:
            query_L = key_T = tf.range(tokens_BL.shape[1])
        else:
            query_L, key_T = tf.reshape(position, [1]), tf.range(caches[0][0].key_BHTK.shape[2])
        nonpadding_BL = tf.cast(features["decoder_target_tokens"] > 0, tf.float32)
        x_BLM = self.decoder(
            self._embed(tokens_BL),
            (query_L, key_T),
            allowed=allowed,
            memory_BTM=memory_BTM,
            memory_allowed=memory_allowed,
            nonpadding_BL=nonpadding_BL,
            caches=caches,
            training=training,
        )
        logits = self.embedding.logits if self.softmax is None else self.softmax
        # In bfloat16, cross-entropy over a large vocabulary would lose its small terms.
        with tf.name_scope("softmax"):
            return tf.cast(logits(x_BLM), tf.float32)

    @property
    def switch_layers(self):
        """The Switch layers of the encoder, then of the decoder, in the order of computation."""
        return self.encoder.switch_layers + self.decoder.switch_layers

    def flops(self, encoder_length: int, decoder_length: int) -> int:
        """Forward FLOPs of one sequence pair: matrix products only, 2 per multiply-add."""
        total = 2 * decoder_length * self.d_model * self.vocab_size
        for stack, length in ((self.encoder, encoder_length), (self.decoder, decoder_length)):
            for block in stack.blocks:
                total += block.self_attention.layer.flops(self.d_model, length, length)
                total += block.feed_forward.layer.flops(self.d_model, length)
                if block.cross_attention is not None:
                    attention = block.cross_attention.layer
                    total += attention.flops(self.d_model, length, encoder_length)
        return total

    def get_config(self):
        """Constructor arguments; the config of the first Switch layer stands for all of them."""
        names = (
            "vocab_size d_model d_kv num_heads d_ff num_layers activation tied_softmax "
            "dropout_rate expert_frequency encoder_sparse_layers decoder_sparse_layers "
            "expert_dropout_rate init_scale float32_attention_logits float32_softmax_logits "
            "rematerialize seed"
        )
        config = super().get_config() | {name: getattr(self, name) for name in names.split()}
        config["dtype"] = "bfloat16" if self.compute_dtype == "bfloat16" else "float32"
        blocks = self.encoder.blocks + self.decoder.blocks
        sparse = [block for block in blocks if block.switch_layers]
        config |= {"switch_ffn": None, "switch_attention": None}
        if sparse and self.switch_ffn is not None:
            config["switch_ffn"] = _config_of(sparse[0].feed_forward.layer)
        if sparse and self.switch_attention is not None:
            config["switch_attention"] = _config_of(sparse[0].self_attention.layer)
        return config

    @classmethod
    def from_config(cls, config):
        """Recreates the model from its `get_config`."""
        config = dict(config)
        for name in ("switch_ffn", "switch_attention"):
            if config[name] is not None:
                config[name] = functools.partial(_of_config, config[name])
        return cls(**config)


def _config_of(layer) -> dict:
    return {
        "class_name": keras.saving.get_registered_name(type(layer)),
        "config": layer.get_config(),
    }


def _of_config(layer, **given):
    return registered(layer["class_name"]).from_config(layer["config"] | given)


def _check_causal(blocks) -> None:
    """Checks that no router of the decoder sees future tokens, unless explicitly allowed."""
    for block in blocks:
        for layer in block.switch_layers:
            if not layer.router.in_decoder:
                name = type(layer.router).__name__
                raise UserError(
                    f"{name} looks at future tokens, but the decoder has it in {block.name}: set "
                    f"TransformerEncoderDecoder.decoder_sparse_layers=() or {name}.in_decoder=True"
                )


def same_segment(query_BL, key_BT):
    """Mask [batch, 1, length, memory length] of pairs in one packed example, neither padding."""
    same_BLT = tf.expand_dims(query_BL, 2) == tf.expand_dims(key_BT, 1)
    return tf.expand_dims(same_BLT, 1) & attends_to(key_BT > 0)


def attends_to(nonpadding_BT):
    """Attention mask [batch, 1, 1, memory length] from a bool mask [batch, memory length]."""
    return tf.expand_dims(tf.expand_dims(nonpadding_BT, 1), 1)


def parameter_count(model: keras.Layer) -> int:
    """Number of trainable parameters over all devices, replicas counted once."""
    total = 0
    for variable in model.trainable_variables:
        size = 1
        for dimension in variable.shape:
            size *= dimension
        total += size
    return total
