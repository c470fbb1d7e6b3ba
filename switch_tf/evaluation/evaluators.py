"""All figures of an evaluation: teacher-forced ones, and the tasks' own."""

from collections.abc import Callable, Mapping

from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.task_metrics import TaskEvaluator
from switch_tf.evaluation.teacher_forced import TeacherForcedEvaluator
from switch_tf.setup.mesh_model import MeshModel


class Evaluators:
    """What the settings ask to be evaluated of a model.

    Attributes:
      data: what is read, as the settings have it.
      teacher_forced: a `TeacherForcedEvaluator`.
      task_metrics: a `TaskEvaluator`; None: the tasks' own metrics are not asked for.

    Args:
      made: the model on its mesh, and the data of its run.
      settings: an `Evaluation`.

    Raises:
      UserError: data that do not fit the mesh, or are missing.
    """

    def __init__(self, made: MeshModel, settings: Evaluation):
        self.data = settings.data(made.data, made.mesh)
        shared = (made.model, made.mesh, self.data)
        limits = (settings.batches, settings.dropless)
        self.teacher_forced = TeacherForcedEvaluator(*shared, *limits)
        self.task_metrics = None
        if settings.decode:
            self.task_metrics = TaskEvaluator(*shared, settings.decode_examples)

    def run(
        self, step: int, task_metrics: bool, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, dict[str, float]]:
        """Evaluates the model as it is.

        Args:
          step: of the model, for SeqIO's own records.
          task_metrics: whether the tasks' own are made, too, where they are asked for.
          stop: asked between batches.

        Returns:
          Task -> metric -> value.

        Raises:
          Stopped: `stop` said so.
        """
        results = self.teacher_forced.run(stop)
        if task_metrics and self.task_metrics is not None:
            for task, metrics in self.task_metrics.run(step, stop).items():
                results[task] = results.get(task, {}) | metrics
        return results


def figures_line(task: str, metrics: Mapping[str, float]) -> str:
    """One line of a task's figures."""
    return task + "  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
