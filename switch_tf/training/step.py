"""One training step and one evaluation step, compiled for the mesh in use."""

import dataclasses

import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.layers import routing as routing_lib
from switch_tf.layers.dropout import fixed_seed, step_seed
from switch_tf.layers.watch import watch
from switch_tf.models.losses import LOSS_NORMALIZING_FACTORS, cross_entropy, per_sequence

_SCALARS = ("loss", "cross_entropy", "z_loss", "correct", "tokens", "learning_rate")


@dataclasses.dataclass
class _Columns:
    """Where each figure lies in the one vector that a step returns; known once it is traced.

    One vector, because each tensor read from a mesh costs a round trip to its devices.
    """

    layers: list[tuple[str, int, float]] = dataclasses.field(default_factory=list)
    watched: list[str] = dataclasses.field(default_factory=list)


class TrainStep:
    """Forward, backward and update.

    Args:
      model: called with features and `training`.
      optimizer: of `switch_tf.optimizers`, built.
      mesh: the mesh in use.
      z_loss_coef: of the softmax (Mesh-TensorFlow: 1e-4).
      seed: of dropout and jitter, with the step mixed in.
      loss_normalizing_factor: one of `LOSS_NORMALIZING_FACTORS`.

    Raises:
      UserError: it is none of them.
    """

    def __init__(
        self,
        model,
        optimizer,
        mesh,
        z_loss_coef: float,
        seed: int,
        loss_normalizing_factor: str = LOSS_NORMALIZING_FACTORS[0],
    ):
        if loss_normalizing_factor not in LOSS_NORMALIZING_FACTORS:
            raise UserError(
                f"loss_normalizing_factor='{loss_normalizing_factor}' is none of "
                + ", ".join(LOSS_NORMALIZING_FACTORS)
            )
        self._loss_normalizing_factor = loss_normalizing_factor
        self._model = model
        self._optimizer = optimizer
        self._mesh = mesh
        self._z_loss_coef = z_loss_coef
        self._seed = seed
        self._columns = _Columns()
        # Autograph would rewrite Python that is meant to run while tracing, and wrap its errors.
        self._run = tf.function(self._trace, autograph=False)

    def __call__(self, features, step: int) -> dict:
        """Updates the model and returns the step's figures.

        Args:
          features: DTensors [batch, length] by SeqIO's names.
          step: 0-based.

        Returns:
          Floats loss, nlp (minus nats per target token), accuracy, z_loss, tokens, learning_rate;
          `routing`: layer -> figures of `routing.unpack_statistics` and max_logit; `not_finite`:
          names of the layers whose output has inf or NaN, in order.
        """
        # Not integers: DTensor takes small ones for constants and compiles the second step anew.
        seed_and_step = self._mesh.pack(np.array([self._seed, step], np.float64), (None,))
        return self._unpack(mesh_lib.to_numpy(self._run(features, seed_and_step)))

    def _trace(self, features, seed_and_step):
        seed_and_step = tf.cast(seed_and_step, tf.int32)
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            with (
                step_seed(seed_and_step),
                routing_lib.collect() as reports,
                watch() as watched,
            ):
                logits_BLV = self._model(features, training=True)
            targets_BL = features["decoder_target_tokens"]
            weights_BL, loss_weights_BL = features["decoder_loss_weights"], None
            if self._loss_normalizing_factor == "AVERAGE_PER_SEQUENCE":
                segments_BL = features.get("decoder_segment_ids")
                loss_weights_BL = per_sequence(weights_BL, segments_BL)
            entropy, z_loss, correct, tokens, loss = cross_entropy(
                logits_BLV, targets_BL, weights_BL, self._z_loss_coef, loss_weights_BL
            )
            for report in reports:
                loss += report.loss()
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        step = seed_and_step[1]
        self._optimizer.apply(gradients, variables, step)
        rate = tf.cast(self._optimizer.learning_rate(step), tf.float32)
        scalars = tf.stack([loss, entropy, z_loss, correct, tokens, rate])
        return tf.concat([scalars, *self._observe(reports, watched)], axis=0)

    def _observe(self, reports, watched):
        self._columns.layers = [
            (r.name, r.routing.num_experts, r.load_balancing_coef) for r in reports
        ]
        self._columns.watched = [name for name, _ in watched]
        for report in reports:
            yield report.statistics()
        if reports:
            yield tf.stack([report.max_logit() for report in reports])
        yield tf.reduce_sum(tf.stack([size_B for _, size_B in watched]), axis=1)

    def _unpack(self, vector: np.ndarray) -> dict:
        scalars = dict(zip(_SCALARS, vector.tolist(), strict=False))
        tokens = max(scalars["tokens"], 1.0)
        rest, routing = vector[len(_SCALARS) :], {}
        for name, num_experts, coefficient in self._columns.layers:
            width = num_experts + routing_lib.NUM_SCALARS
            routing[name] = routing_lib.unpack_statistics(rest[:width], coefficient)
            rest = rest[width:]
        for name, max_logit in zip(routing, rest, strict=False):
            routing[name]["max_logit"] = float(max_logit)
        sizes = rest[len(routing) :]
        watched = zip(self._columns.watched, sizes, strict=True)
        return {
            "loss": scalars["loss"],
            "nlp": -scalars["cross_entropy"] / tokens,
            "accuracy": scalars["correct"] / tokens,
            "z_loss": scalars["z_loss"] / tokens,
            "tokens": tokens,
            "learning_rate": scalars["learning_rate"],
            "routing": routing,
            "not_finite": [name for name, size in watched if not np.isfinite(size)],
        }


class EvalStep:
    """Teacher-forced sums of one batch, at the evaluation capacity and without dropping.

    Args:
      model: called with features; where it has no Switch layer, both figures are one.
    """

    def __init__(self, model):
        self._model = model
        self._run = tf.function(self._trace, autograph=False)

    def __call__(self, features) -> dict[str, float]:
        """Sums over the batch: cross_entropy, cross_entropy_dropless (nats), correct, tokens,
        routed (tokens times layers) and kept (those that an expert took).
        """
        names = "cross_entropy correct tokens cross_entropy_dropless routed kept".split()
        values = mesh_lib.to_numpy(self._run(features)).tolist()
        return dict(zip(names, values, strict=True))

    def _trace(self, features):
        with fixed_seed(), routing_lib.collect() as reports:
            entropy, correct, tokens = self._forward(features)
        dropless, routed, kept = entropy, tokens, tokens
        if reports:
            routed = _total([r.routing.nonpadding_GS for r in reports])
            kept = _total([r.routing.kept_GS for r in reports])
            with fixed_seed(), routing_lib.collect(), routing_lib.dropless():
                dropless, _, _ = self._forward(features)
        return tf.stack([entropy, correct, tokens, dropless, routed, kept])

    def _forward(self, features):
        logits_BLV = self._model(features, training=False)
        entropy, _, correct, tokens, _ = cross_entropy(
            logits_BLV, features["decoder_target_tokens"], features["decoder_loss_weights"]
        )
        return entropy, correct, tokens


def _total(tensors) -> tf.Tensor:
    """Sum over all elements of tensors of any shapes, float32.

    Stacked before they are added: layers with the same padding have the same sum, and of an
    addition of one all-reduce to itself DTensor's compiler (TensorFlow 2.21) frees memory twice.
    """
    sums = [tf.reduce_sum(tf.cast(tensor, tf.float32)) for tensor in tensors]
    return tf.reduce_sum(tf.stack(sums))
