"""Greedy decoding with a cache of keys and values."""

import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.layers.attention import Cache
from switch_tf.layers.base import lay_out
from switch_tf.layers.context import inference_scope
from switch_tf.models.transformer import new_caches

EOS_ID = 1
# Reading from the mesh blocks, so only every few steps check whether all sequences have ended.
_CHECK_EVERY = 4


class GreedyDecoder:
    """Takes the most probable token at each position, up to the end-of-sequence token.

    Routing is dropless (`inference_scope`), so the output for a text does not depend on the rest
    of the batch.

    Args:
      model: a `TransformerEncoderDecoder`.
      mesh: the mesh in use.
      max_length: maximum number of tokens to decode.
      vocabulary_size: number of pieces in the vocabulary. The embedding's rows beyond it, which
        only round VOCAB_SIZE up, are never decoded. None if there are no such rows.
    """

    def __init__(self, model, mesh, max_length: int, vocabulary_size: int | None = None):
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._mesh = mesh
        self._max_length = max_length
        self._first = tf.function(self._trace_first, autograph=False)
        self._next = tf.function(self._trace_next, autograph=False)

    def __call__(self, encoder_input_tokens: np.ndarray) -> np.ndarray:
        """Decodes a batch.

        Args:
          encoder_input_tokens: int32 [batch, memory length]; the mesh must divide the batch.

        Returns:
          int32 [batch, max_length], 0 after the end-of-sequence token.
        """
        tokens_BT = self._mesh.pack(encoder_input_tokens, ("batch", "length"))
        state = self._first(tokens_BT)
        outputs = [state["token_B1"]]
        for position in range(1, self._max_length):
            if position % _CHECK_EVERY == 0 and not mesh_lib.to_numpy(state["going_B1"]).any():
                break
            # A float, because DTensor treats small integers as constants and would recompile.
            index = self._mesh.pack(np.float32(position), ())
            state = self._next(tokens_BT, state, index)
            outputs.append(state["token_B1"])
        decoded = np.concatenate([mesh_lib.to_numpy(token_B1) for token_B1 in outputs], axis=1)
        return np.pad(decoded, [(0, 0), (0, self._max_length - decoded.shape[1])])

    def _trace_first(self, tokens_BT):
        with inference_scope():
            memory_BTM = self._model.encode({"encoder_input_tokens": tokens_BT})
        model = self._model
        shape = [tokens_BT.shape[0], model.num_heads, self._max_length, model.d_kv]
        axes = ("batch", "heads", "length", "d_kv")
        empty_BHTK = lay_out(tf.zeros(shape, model.compute_dtype), axes)
        position = tf.constant(0)
        caches = new_caches(len(model.decoder.blocks), empty_BHTK, position)
        start_B1 = tf.zeros_like(tokens_BT[:, :1])
        going_B1 = tf.ones_like(start_B1)
        return self._decode(tokens_BT, memory_BTM, start_B1, going_B1, caches, position)

    def _trace_next(self, tokens_BT, state, position):
        position = tf.cast(position, tf.int32)
        caches = [
            (Cache(*own, position), Cache(*cross))
            for own, cross in zip(state["self"], state["cross"], strict=True)
        ]
        memory_BTM = state["memory_BTM"]
        last_B1, going_B1 = state["token_B1"], state["going_B1"]
        return self._decode(tokens_BT, memory_BTM, last_B1, going_B1, caches, position)

    def _decode(self, tokens_BT, memory_BTM, last_B1, going_B1, caches, position):
        features = {
            "encoder_input_tokens": tokens_BT,
            "decoder_input_tokens": last_B1,
            "decoder_target_tokens": going_B1,
        }
        with inference_scope():
            logits_B1V = self._model.decode(features, memory_BTM, caches, position)
        if self._vocabulary_size is not None:
            is_piece_V = tf.range(logits_B1V.shape[-1]) < self._vocabulary_size
            logits_B1V = tf.where(is_piece_V, logits_B1V, logits_B1V.dtype.min)
        token_B1 = tf.argmax(logits_B1V, axis=-1, output_type=tf.int32) * going_B1
        return {
            "memory_BTM": memory_BTM,
            "token_B1": token_B1,
            "going_B1": going_B1 * tf.cast(token_B1 != EOS_ID, tf.int32),
            "self": [(own.key_BHTK, own.value_BHTK) for own, _ in caches],
            "cross": [(cross.key_BHTK, cross.value_BHTK) for _, cross in caches],
        }
