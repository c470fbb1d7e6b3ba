"""Log-likelihoods of given answers, for tasks that rank answers."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.layers.context import inference_scope
from switch_tf.models.losses import token_losses

FEATURES = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
)


class Scorer:
    """Scores targets by the sum of their tokens' log-probabilities in nats, as T5's `score` does.

    Routing is dropless, as in `GreedyDecoder`.

    Args:
      model: a `TransformerEncoderDecoder`.
      mesh: the mesh in use.
    """

    def __init__(self, model, mesh):
        self._model = model
        self._mesh = mesh
        self._run = tf.function(self._trace, autograph=False)

    def __call__(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores a batch.

        Args:
          features: the features named in `FEATURES`, each [batch, length]; the mesh must divide
            the batch.

        Returns:
          float32 [batch], 0 for rows without a target.
        """
        packed = {name: self._mesh.pack(features[name], ("batch", "length")) for name in FEATURES}
        return mesh_lib.to_numpy(self._run(packed))

    def _trace(self, features):
        with inference_scope():
            logits_BLV = self._model(features, training=False)
        entropy_BL, _, _ = token_losses(logits_BLV, features["decoder_target_tokens"])
        weights_BL = tf.cast(features["decoder_loss_weights"], tf.float32)
        return tf.reduce_sum(-entropy_BL * weights_BL, axis=1)
