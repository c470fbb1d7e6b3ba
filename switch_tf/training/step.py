"""One training step, compiled for the mesh in use."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.data.batch_shape import check_parts
from switch_tf.errors import UserError
from switch_tf.layers.context import collect, step_seed, watch
from switch_tf.layers.figures import Figures
from switch_tf.layers.routing import layer_figures
from switch_tf.models.losses import (
    LOSS_NORMALIZING_FACTORS,
    cross_entropy,
    per_sequence,
    soft_cross_entropy,
    token_losses,
)
from switch_tf.optimizers.base import Optimizer
from switch_tf.rules import (
    Count,
    NonNegative,
    Rule,
    Seed,
    SetBy,
    VariablePatterns,
    configurable,
    matches,
)
from switch_tf.setup.mesh_model import MeshModel
from switch_tf.stages import telling
from switch_tf.training.bad_steps import BadSteps
from switch_tf.training.distillation import Distillation, Teacher
from switch_tf.training.microbatches import Microbatches
from switch_tf.training.norms import Norms

# Seeds of parts are this far apart, so that they do not collide with the seeds of other runs.
_PART_SEEDS = 7919
# Name of the group of figures that do not belong to a Switch layer.
_STEP = "step"


class CompiledFunction(NamedTuple):
    """A compiled function that a training step calls.

    Attributes:
      function: the `tf.function`.
      arguments: its arguments.
      times: number of calls per step.
    """

    function: Callable
    arguments: tuple
    times: int


@configurable
class TrainStep:
    """One training step: forward pass, backward pass and update.

    Attributes:
      microbatches: see below.
      variables: the weights that it updates.
      compute_dtype: "float32" or "bfloat16", the model's.
      optimizer_offset: how far the optimizer's step is ahead of the run's: the optimizer's step in
        the initial checkpoint, if the run restored its optimizer, otherwise 0. Optimizer and
        learning rate follow the optimizer's step; data and noise follow the run's.
      bad_steps: what a run does about a step that is bad.

    Args:
      model: built, and called with features and `training`.
      optimizer: an optimizer, to be built for `variables`.
      mesh: the mesh in use.
      seed: seeds dropout and jitter, together with the step.
      z_loss_coef: weight of the softmax z-loss, log(Z)², which keeps the logits near zero. Keep
        1e-4, as in Mesh-TensorFlow; 0 turns it off.
      loss_normalizing_factor: "NUM_REAL_TARGET_TOKENS" gives all target tokens the same weight,
        "AVERAGE_PER_SEQUENCE" all sequences. The first is usual; the second keeps tasks with long
        targets from dominating a mixture.
      frozen: patterns of the weights that are not updated and have no optimizer slots, such as
        ["router"] for all routers in fine-tuning. Saves the memory of their gradients and slots,
        and keeps what they learned, but only the other weights adapt to the new task. A resumed
        run must freeze the same weights.
      teacher: see `Distillation`; None learns from the targets alone.
      microbatches: number of parts of a batch that go through the model one after another, their
        gradients summed. More parts need less memory for activations, but smaller parts use
        devices less well: use the fewest that fit. The update is the same if parts have the groups
        of the whole batch: if GROUP_SIZE is at most a part's tokens divided by GROUPS_MULTIPLE and
        such groups are not too small for the capacity factor. Losses, including the routers', are
        means over the tokens of the whole batch; with `Router.load_balancing_over='positions'` the
        routers' losses are means over the parts, as in Mesh-TensorFlow.

    Raises:
      UserError: an unknown factor, fewer than one part, or a pattern of `frozen` that is found in
        no weight's path.
    """

    def __init__(
        self,
        model: Annotated[Any, Rule("a model"), SetBy("ModelSetup.model")],
        optimizer: Annotated[Any, Rule("an optimizer"), SetBy("ModelSetup.optimizer")],
        mesh: Annotated[Any, Rule("a mesh"), SetBy("ModelSetup.mesh_shape")],
        seed: Annotated[Seed, SetBy("SEED")],
        z_loss_coef: NonNegative = 1e-4,
        loss_normalizing_factor: Literal[LOSS_NORMALIZING_FACTORS] = LOSS_NORMALIZING_FACTORS[0],
        microbatches: Count = 1,
        frozen: VariablePatterns = (),
        teacher: Annotated[Teacher | None, SetBy("train.distillation")] = None,
    ):
        self.microbatches = microbatches
        self.compute_dtype = model.compute_dtype
        self.optimizer_offset = 0
        self.bad_steps = BadSteps()
        self._loss_normalizing_factor = loss_normalizing_factor
        self._model = model
        self.variables = _trained(model.trainable_variables, frozen)
        self._optimizer = optimizer
        self._mesh = mesh
        self._z_loss_coef = z_loss_coef
        self._seed = seed
        self._teacher = teacher
        self._figures = Figures()
        self._norms = Norms(self.variables)
        # Autograph would rewrite Python that should run while tracing, and wrap its errors.
        self._run = tf.function(self._train_step, autograph=False)
        self._parts = None
        # Then gradients are looked at before the update, which may be left out.
        self._guarded = self.bad_steps.policy == "skip"
        if microbatches > 1 or self._guarded:
            self._parts = Microbatches(microbatches, mesh, self.variables)
            self._add_gradients = tf.function(self._add_gradients_of_part, autograph=False)
            self._update = tf.function(self._update_by_sums, autograph=False)
            self._are_finite = tf.function(self._parts.are_finite, autograph=False)
            self._drop = tf.function(self._parts.drop, autograph=False)

    def __call__(self, features, step: int) -> dict:
        """Updates the model and returns the step's figures.

        Args:
          features: SeqIO's feature name -> DTensor [batch, length].
          step: 0-based step of the run.

        Returns:
          Floats: loss, nlp (minus nats per target token), accuracy, z_loss, tokens, learning_rate;
          with a teacher, soft_cross_entropy and teacher_nlp;
          `norms`: see `Norms.by_group`;
          `routing`: layer -> `routing.layer_figures`; `not_finite`: the layers whose output has inf
          or NaN, in order; in place of norms `skipped`, why there was no update, if there was none.
        """
        if self._parts is None:
            found = self._run(*self._arguments(features, step))
            return self._figures_of(*map(mesh_lib.to_numpy, found))
        parts = []
        for part in range(self.microbatches):
            arguments = self._arguments(features, step, part)
            parts.append(mesh_lib.to_numpy(self._add_gradients(*arguments)))
        vector = self._figures.combine(np.stack(parts))
        if self._guarded:
            found = self._unpack(vector)
            is_finite = bool(mesh_lib.to_numpy(self._are_finite()))
            if why := self.bad_steps.fault(found["loss"], is_finite):
                self._drop()
                return found | {"skipped": why}
        squares = self._update(*self._arguments(features, step)[1:])
        return self._figures_of(vector, mesh_lib.to_numpy(squares))

    def describe(self) -> str:
        """Describes the objective, and what is frozen, in one line."""
        every, trained = self._model.trainable_variables, self.variables
        frozen = ""
        if len(trained) < len(every):
            parameters = [sum(math.prod(v.shape) for v in found) for found in (every, trained)]
            frozen = (
                f"; frozen: {len(every) - len(trained)} of {len(every)} variables, "
                f"{parameters[0] - parameters[1]:,} of {parameters[0]:,} parameters"
            )
        taught = f"; {self._teacher.describe()}" if self._teacher else ""
        return (
            f"loss: {self._loss_normalizing_factor}, softmax z-loss coefficient "
            f"{self._z_loss_coef}; micro-batches: {self.microbatches}{frozen}{taught}"
        )

    def compiled(self, features, step: int) -> list[CompiledFunction]:
        """The compiled functions that `__call__` calls, in order, with the same arguments."""
        if self._parts is None:
            return [CompiledFunction(self._run, self._arguments(features, step), 1)]
        part = self._arguments(features, step, 0)
        return [
            CompiledFunction(self._add_gradients, part, self.microbatches),
            CompiledFunction(self._update, self._arguments(features, step)[1:], 1),
        ]

    def _arguments(self, features, step: int, *part: int) -> tuple:
        # Not integers: DTensor treats small ones as constants and would recompile the second step.
        numbers = [self._seed, step, step + self.optimizer_offset, *part]
        return features, self._mesh.pack(np.array(numbers, np.float64), (None,))

    def _train_step(self, features, numbers):
        numbers = tf.cast(numbers, tf.int32)
        gradients, figures = self._gradients(features, numbers)
        return figures, self._apply(gradients, numbers[2])

    def _add_gradients_of_part(self, features, numbers):
        numbers = tf.cast(numbers, tf.int32)
        index = numbers[3]
        weights_BL = self._loss_weights(features)
        normalizer = tf.maximum(tf.reduce_sum(weights_BL), 1.0)
        # Each part draws its own noise.
        numbers = tf.stack([numbers[0] + index * _PART_SEEDS, numbers[1], numbers[2]])
        part = self._parts.part(features, index)
        token_shares = _tokens(part) / tf.maximum(_tokens(features), 1.0)
        gradients, figures = self._gradients(part, numbers, normalizer, token_shares)
        self._parts.add(gradients)
        return figures

    def _update_by_sums(self, numbers):
        step = tf.cast(numbers, tf.int32)[2]
        return self._apply(self._parts.take(), step)

    def _apply(self, gradients, step) -> tf.Tensor:
        """Updates the weights; returns the result of `Optimizer.apply`."""
        # Names of operations begin with the part of the step that they belong to: see `bench
        # train --breakdown`.
        with tf.name_scope("optimizer"):
            return self._optimizer.apply(gradients, self.variables, step)

    def _loss_weights(self, features):
        """The weight of each token in the loss, [batch, length]."""
        weights_BL = features["decoder_loss_weights"]
        if self._loss_normalizing_factor == "AVERAGE_PER_SEQUENCE":
            return per_sequence(weights_BL, features.get("decoder_segment_ids"))
        return tf.cast(weights_BL, tf.float32)

    def _gradients(self, features, numbers, normalizer=None, token_shares=None):
        """Computes gradients and the vector of figures, and replaces `self._figures`.

        Args:
          features: features of the batch, or of a part of it.
          numbers: int32 seed, step, and the optimizer's step.
          normalizer: divisor of the loss; None uses the default of `cross_entropy`.
          token_shares: for a part, its share of the batch's encoder and decoder tokens, [2].
        """
        teacher_BLV = self._teacher(features) if self._teacher else None
        with tf.GradientTape() as tape:
            with step_seed(numbers[:2]), collect() as reports, watch() as watched:
                logits_BLV = self._model(features, training=True)
            with tf.name_scope("loss"):
                entropy, z_loss, correct, tokens, loss = cross_entropy(
                    logits_BLV,
                    features["decoder_target_tokens"],
                    features["decoder_loss_weights"],
                    self._z_loss_coef,
                    self._loss_weights(features),
                    normalizer,
                    self._teacher.hard_weight if self._teacher else 1.0,
                )
                taught, by_teacher = self._taught(logits_BLV, teacher_BLV, features, normalizer)
                loss += taught
            for report in reports:
                loss += self._share(report, token_shares) * report.loss()
        gradients = tape.gradient(loss, [v.value for v in self.variables])
        rate = tf.cast(self._optimizer.learning_rate(numbers[2]), tf.float32)
        sums = {
            "loss": loss,
            "cross_entropy": entropy,
            "z_loss": z_loss,
            "correct": correct,
            "tokens": tokens,
            **by_teacher,
        }
        paths, sizes = zip(*watched, strict=True)
        self._figures = figures = Figures()
        figures.add(_STEP, "sum", sums)
        figures.add(_STEP, "first", {"learning_rate": rate})
        figures.add_constants(_STEP, watched=paths)
        sizes_N = tf.reduce_sum(tf.stack(sizes), axis=1)
        figures.add_vector(_STEP, "sum", {"sizes": len(paths)}, sizes_N)
        for report in reports:
            report.add_to(figures)
        return gradients, figures.pack()

    def _taught(self, logits_BLV, teacher_BLV, features, normalizer) -> tuple[Any, dict]:
        """The loss by the teacher, and sums of figures of it; none without a teacher."""
        if self._teacher is None:
            return 0.0, {}
        soft_BL = soft_cross_entropy(logits_BLV, teacher_BLV, self._teacher.temperature)
        own_BL, _, _ = token_losses(teacher_BLV, features["decoder_target_tokens"])
        weights_BL = tf.cast(features["decoder_loss_weights"], tf.float32)
        loss_weights_BL = self._loss_weights(features)
        if normalizer is None:
            normalizer = tf.maximum(tf.reduce_sum(loss_weights_BL), 1.0)
        sums = {
            "soft_cross_entropy": tf.reduce_sum(soft_BL * weights_BL),
            "teacher_cross_entropy": tf.reduce_sum(own_BL * weights_BL),
        }
        loss = tf.reduce_sum(soft_BL * loss_weights_BL) / normalizer
        return (1.0 - self._teacher.hard_weight) * loss, sums

    def _share(self, report, token_shares):
        """The weight of a Switch layer's losses on a part in its losses on the batch."""
        if token_shares is None:
            return 1.0
        if not report.by_tokens:
            return 1.0 / self.microbatches
        return token_shares[int(report.name.startswith(self._model.decoder.path + "/"))]

    def _figures_of(self, vector: np.ndarray, squares: np.ndarray) -> dict:
        return self._unpack(vector) | {"norms": self._norms.by_group(squares)}

    def _unpack(self, vector: np.ndarray) -> dict:
        layers = self._figures.unpack(vector)
        step = layers.pop(_STEP)
        tokens = max(step["tokens"], 1.0)
        watched = zip(step["watched"], step["sizes"], strict=True)
        by_teacher = {}
        if self._teacher is not None:
            by_teacher["soft_cross_entropy"] = step["soft_cross_entropy"] / tokens
            by_teacher["teacher_nlp"] = -step["teacher_cross_entropy"] / tokens
        return by_teacher | {
            "loss": step["loss"],
            "nlp": -step["cross_entropy"] / tokens,
            "accuracy": step["correct"] / tokens,
            "z_loss": step["z_loss"] / tokens,
            "tokens": tokens,
            "learning_rate": step["learning_rate"],
            "routing": {path: layer_figures(found) for path, found in layers.items()},
            "not_finite": [path for path, size in watched if not np.isfinite(size)],
        }


def _trained(variables: Sequence[keras.Variable], frozen: VariablePatterns) -> list[keras.Variable]:
    """The variables that are not frozen."""
    for pattern in frozen:
        if not any(matches(variable.path, [pattern]) for variable in variables):
            raise UserError(
                f"FROZEN: {pattern!r} matches no weight's path: give part of a path, such as "
                f"{variables[-1].path!r}"
            )
    trained = [variable for variable in variables if not matches(variable.path, frozen)]
    if variables and not trained:
        raise UserError(f"FROZEN={list(frozen)} leaves no weight to train: freeze fewer")
    return trained


def _tokens(features) -> tf.Tensor:
    """Number of tokens of encoder and decoder, without padding, float32 [2]."""
    names = ("encoder_input_tokens", "decoder_target_tokens")
    counts = [tf.reduce_sum(tf.cast(features[name] > 0, tf.float32)) for name in names]
    return tf.stack(counts)


def build_step(
    made: MeshModel,
    optimizer: Optimizer,
    seed: int,
    distillation: Callable[[], Distillation] | None = None,
) -> TrainStep:
    """Creates the weights and the optimizer's slots, and the step that trains them.

    Args:
      made: a model that is not built, on its mesh.
      optimizer: an optimizer that is not built.
      seed: see `TrainStep`.
      distillation: makes the `Distillation` whose teacher is restored; None for no teacher.

    Raises:
      UserError: the batch does not divide into the micro-batches, or the teacher does not fit.
    """
    with telling("building the model"):
        made.model.build()
        teacher = distillation and distillation().teacher(made)
        step = TrainStep(made.model, optimizer, made.mesh, seed, teacher=teacher)
        optimizer.build(step.variables)
    check_parts(made.data.batch_size, step.microbatches, made.mesh.ways("batch"))
    return step
