"""Distillation: a model also learns what a teacher says of its batches (paper, Sec. 4.2)."""

from __future__ import annotations

from typing import Annotated

import gin

from switch_tf.checkpoints import model_dir, restore, run_facts
from switch_tf.layers.context import inference_scope
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder, parameter_count
from switch_tf.rules import Positive, Rule, TeacherPath, configurable
from switch_tf.setup.mesh_model import MeshModel
from switch_tf.stages import telling

_Share = Annotated[float, Rule("a number from 0 to 1", lambda share: 0 <= share <= 1)]


@configurable
class Distillation:
    """A teacher, and how much it counts.

    The loss of a token is hard_weight * H(target, p) + (1 - hard_weight) * T^2 * H(q_T, p_T), where
    H is the cross-entropy, p and q are the probabilities of student and teacher, and p_T and q_T
    those of their logits divided by the temperature T. T^2 keeps the size of the gradient (Hinton
    et al., 2015). Losses of routers and the z-loss are added as without a teacher.

    The teacher computes each batch on the same mesh in evaluation mode: without dropout and jitter,
    at the evaluation capacity. Its weights take memory like a model's that is not trained, and a
    step takes about a third of a training step of the teacher longer. Its vocabulary must be the
    student's.

    Args:
      teacher_path: a MODEL_DIR, whose newest checkpoint is used, or a checkpoint in one. The model
        is that of its run, whatever this run's gin files say.
      hard_weight: weight of the targets, and 1 - hard_weight that of the teacher. Keep 0.75, the
        paper's best; 1 ignores the teacher, and 0 the targets.
      temperature: T. Above 1, the teacher's unlikely tokens count more. Keep 1, with which the
        paper's figures were made as far as it says.
    """

    def __init__(
        self,
        teacher_path: TeacherPath = gin.REQUIRED,
        hard_weight: _Share = 0.75,
        temperature: Positive = 1.0,
    ):
        self._path = teacher_path
        self.hard_weight = float(hard_weight)
        self.temperature = float(temperature)

    def teacher(self, made: MeshModel) -> Teacher:
        """Restores the teacher.

        Args:
          made: the student on its mesh, whose dtype the teacher computes in.

        Raises:
          UserError: there is no checkpoint, its run does not say which model it holds, or it has
            another vocabulary.
        """
        setting = "Distillation.teacher_path"
        path = model_dir.find(self._path, setting)
        run_facts.check_vocabulary(setting, path, made.vocabulary)
        config = run_facts.model_config(setting, path)
        with telling("restoring the teacher"):
            model = TransformerEncoderDecoder.from_config(config | {"dtype": _dtype(made.model)})
            model.build()
            restore.restore_model(path, model)
        return Teacher(model, path, self)


def _dtype(model: TransformerEncoderDecoder) -> str:
    return "bfloat16" if model.compute_dtype == "bfloat16" else "float32"


class Teacher:
    """A teacher that is restored.

    Args:
      model: its model, with weights.
      path: its checkpoint.
      settings: how much it counts.
    """

    def __init__(self, model: TransformerEncoderDecoder, path: str, settings: Distillation):
        self._model = model
        self._path = path
        self.hard_weight = settings.hard_weight
        self.temperature = settings.temperature

    def __call__(self, features):
        """Logits of a batch, [batch, length, vocab] float32, as `TransformerEncoderDecoder.call`.

        To be called outside of the contexts in which the student's losses and gradients are
        collected.
        """
        with inference_scope(dropless=False):
            return self._model(features, training=False)

    def describe(self) -> str:
        """Describes the teacher, and how much it counts, in one line."""
        soft = 1 - self.hard_weight
        return (
            f"distilled: {self.hard_weight:g} targets + {soft:g} teacher at temperature "
            f"{self.temperature:g}; teacher: {parameter_count(self._model):,} parameters, "
            f"{self._path}"
        )
