"""All figures of an evaluation: teacher-forced ones, and the tasks' own metrics."""

import json
from collections.abc import Callable

from switch_tf import mesh as mesh_lib
from switch_tf import runtime
from switch_tf.data import answers, features, lost
from switch_tf.data.reading import TaskSplit, user_errors
from switch_tf.errors import UserError
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.task_metrics import TaskEvaluator
from switch_tf.evaluation.teacher_forced import EvaluationInterrupt, TeacherForcedEvaluator
from switch_tf.hosts import agreement
from switch_tf.setup.mesh_model import MeshModel
from switch_tf.stages import telling

# Before a run, and at once in its first evaluation, which looks at what is left.
_LOOK_SECONDS = 10.0


class Evaluators:
    """The evaluators that the settings ask for.

    Attributes:
      data: the data to evaluate on, according to the settings.
      teacher_forced: a `TeacherForcedEvaluator` of the tasks whose split has labels.
      task_metrics: a `TaskEvaluator`, or None if the tasks' own metrics are not asked for.

    Args:
      made: the model on its mesh, with the data of its run.
      settings: an `Evaluation`.
      in_training: whether a run is to be compared by the figures, so that predictions alone are not
        enough.

    Raises:
      UserError: data are missing or do not fit the mesh; no split has labels and nothing is
        predicted, either; or a task's metric fails on right answers.
    """

    def __init__(self, made: MeshModel, settings: Evaluation, in_training: bool = False):
        self.data = settings.data(made.data, made.mesh)
        if not self.data.use_cached:
            features.check_split(self.data.provider(), self.data.split, "Evaluation.split")
        self._settings, self._unlabelled, self.task_metrics = settings, [], None
        self._in_training = in_training
        self._examples = settings.batches and settings.batches * self.data.batch_size
        # Those of a limited number of batches are drawn from these.
        most = self._examples and self._examples + features.EVAL_SHUFFLE_EXAMPLES
        with mesh_lib.host():
            self._looks = answers.looks(features.tasks(self.data), self.data, most)
        lacking = self._agreed_to_lack_answers()
        self.teacher_forced = TeacherForcedEvaluator(
            *(made.model, made.mesh, self.data, settings.batches, settings.dropless),
            without=lacking,
        )
        self._leave_out(lacking)
        self._lost: dict[str, lost.Lost] | None = None
        if settings.decode:
            self.task_metrics = TaskEvaluator(
                made.model, made.mesh, self.data, settings.decode_examples
            )
            self.task_metrics.leave_out(self._unlabelled)
            self.task_metrics.check()

    def _without_answers(self) -> list[str]:
        """Names of the tasks whose examples are found to have no answers, in some seconds."""
        found, seconds = [], _LOOK_SECONDS / max(len(self._looks), 1)
        for task, look in list(self._looks.items()):
            with mesh_lib.host(), user_errors(TaskSplit.of(self.data, task)):
                if not look.are_there(seconds):
                    found.append(task)
            if look.is_done or task in found:
                del self._looks[task]
            if look.note:
                runtime.tell(look.note)
        return found

    def _agreed_to_lack_answers(self) -> list[str]:
        """Like `_without_answers`, of which hosts see different numbers of examples in the time."""
        own = json.dumps(self._without_answers())
        found = json.loads(agreement.from_chief("tasks without answers", own))
        for task in found:
            self._looks.pop(task, None)
        return found

    def _leave_out(self, lacking: list[str]) -> None:
        """Leaves out tasks without answers.

        Raises:
          UserError: there is nothing else to evaluate, and predictions alone are not wanted.
        """
        if not lacking:
            return
        self._unlabelled += lacking
        self.teacher_forced.leave_out(lacking)
        if self.task_metrics is not None:
            self.task_metrics.leave_out(lacking)
        predicts = self._settings.decode and self._settings.predictions
        what = f"split '{self.data.split}' of {', '.join(lacking)}"
        told = f"{what} has no labels, as published test files have none: it gives no figures"
        if self._in_training and not self.teacher_forced.datasets:
            raise UserError(
                f"{told} to compare the steps of the run by: set Evaluation.split to one that has "
                "labels, such as a part of the training data that the task keeps for it"
            )
        if not predicts and not self.teacher_forced.datasets:
            raise UserError(
                f"{told}: set Evaluation.split to another one, or Evaluation.decode and "
                "Evaluation.predictions to True to have its predictions"
            )
        runtime.tell(f"{told}, only predictions" if predicts else told)

    def run(
        self,
        step: int,
        task_metrics: bool,
        stop: Callable[[], bool] = lambda: False,
        predictions: str | None = None,
    ) -> dict[str, dict[str, float]]:
        """Evaluates the model in its current state.

        Args:
          step: step of the model, for SeqIO's own records.
          task_metrics: whether to compute the tasks' own metrics too, if the settings ask for them.
          stop: called between batches; returns whether to stop.
          predictions: folder for what the model answers to each example; see `predictions.records`.

        Returns:
          Task -> metric -> value; for tasks of which something is truncated or unknown also the
          shares of `lost.Lost`, of the examples that `lost.count` reads.

        Raises:
          EvaluationInterrupt: `stop` returned True.
        """
        with telling("looking for examples without answers", at_once=False):
            # As often on all hosts, whose calls of `stop` must match.
            while agreement.any_of("there are examples to look at", bool(self._looks)):
                if stop():
                    raise EvaluationInterrupt()
                self._leave_out(self._agreed_to_lack_answers())
        results = self.teacher_forced.run(stop)
        for task, of_task in self._count_lost(stop).items():
            if any(of_task.figures().values()):
                results[task] |= of_task.figures()
        if task_metrics and self.task_metrics is not None:
            for task, metrics in self.task_metrics.run(step, stop, predictions).items():
                results[task] = results.get(task, {}) | metrics
        return results

    def _count_lost(self, stop: Callable[[], bool]) -> dict[str, lost.Lost]:
        """What is lost of each task, counted and printed once: a split is always the same."""
        if self._lost is None:
            found = {}
            with (
                mesh_lib.host(),
                telling("looking for lost tokens", at_once=False),
            ):
                for task, of_task in lost.count(self.data, self._examples):
                    if stop():
                        raise EvaluationInterrupt()
                    if task not in self._unlabelled:
                        found[task] = of_task
            split = self.data.split
            runtime.tell(*(f"split '{split}' of {line}" for line in lost.lines(found)))
            self._lost = found
        return self._lost
