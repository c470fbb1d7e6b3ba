"""One evaluation step, compiled for the mesh in use."""

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.layers.context import inference_scope
from switch_tf.layers.figures import Figures
from switch_tf.models.losses import cross_entropy


class EvalStep:
    """Teacher-forced sums over one batch, at the evaluation capacity and dropless.

    Args:
      model: called with features; without Switch layers, both cross-entropies are the same.
      dropless: whether the dropless cross-entropy is computed; see `Evaluation.dropless`.
    """

    def __init__(self, model, dropless: bool = True):
        self._model = model
        self._makes_dropless = dropless
        self._is_sparse = False
        self._figures = Figures()
        # Two functions, so that buffers of the first are freed before the dropless ones, which are
        # E / capacity factor times as large, are allocated.
        self._capped = tf.function(self._trace_capped, autograph=False)
        self._dropless = tf.function(self._trace_dropless, autograph=False)

    def __call__(self, features) -> dict[str, float]:
        """Returns the sums of `capped` and, if asked for, cross_entropy_dropless (nats)."""
        sums = self.capped(features)
        if not self._makes_dropless:
            return sums
        dropless = sums["cross_entropy"]
        if self._is_sparse:
            dropless = float(mesh_lib.to_numpy(self._dropless(features)))
        return sums | {"cross_entropy_dropless": dropless}

    def capped(self, features) -> dict[str, float]:
        """Sums over the batch at the evaluation capacity.

        Returns:
          cross_entropy (nats), correct, tokens, routed (tokens times Switch layers) and kept (those
          of them that an expert took).
        """
        vector = mesh_lib.to_numpy(self._capped(features))
        return self._figures.unpack(vector)["batch"]

    def _trace_capped(self, features):
        with inference_scope(dropless=False) as reports:
            entropy, correct, tokens = self._forward(features)
        routed, kept = tokens, tokens
        if reports:
            self._is_sparse = True
            routed = _total([r.routing.nonpadding_GS for r in reports])
            kept = _total([r.routing.kept_GS for r in reports])
        sums = {
            "cross_entropy": entropy,
            "correct": correct,
            "tokens": tokens,
            "routed": routed,
            "kept": kept,
        }
        self._figures = Figures()
        self._figures.add("batch", "sum", sums)
        return self._figures.pack()

    def _trace_dropless(self, features):
        with inference_scope():
            return self._forward(features)[0]

    def _forward(self, features):
        logits_BLV = self._model(features, training=False)
        entropy, _, correct, tokens, _ = cross_entropy(
            logits_BLV, features["decoder_target_tokens"], features["decoder_loss_weights"]
        )
        return entropy, correct, tokens


def _total(tensors) -> tf.Tensor:
    """The float32 sum over all elements of all tensors, which may differ in shape.

    Stacks the sums before adding them: layers with the same padding share one sum, and when an
    all-reduce is added to itself, DTensor's compiler (TensorFlow 2.20) frees memory twice.
    """
    sums = [tf.reduce_sum(tf.cast(tensor, tf.float32)) for tensor in tensors]
    return tf.reduce_sum(tf.stack(sums))
