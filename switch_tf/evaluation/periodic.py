"""Evaluations in the course of a run: when they are due, and what was logged of them."""

from collections.abc import Callable

from switch_tf.evaluation.evaluators import Evaluators, figures_line
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.teacher_forced import TEACHER_FORCED
from switch_tf.metrics import best
from switch_tf.metrics.writer import MetricsWriter


class PeriodicEvaluation:
    """Evaluates a run every so many steps, and at its last one.

    Args:
      evaluators: what is evaluated.
      settings: when.
      writer: the log of the run.
      model_dir: of the run.
      train_steps: the last step.
    """

    def __init__(
        self,
        evaluators: Evaluators,
        settings: Evaluation,
        writer: MetricsWriter,
        model_dir: str,
        train_steps: int,
    ):
        self._evaluators = evaluators
        self._settings = settings
        self._writer = writer
        self._model_dir = model_dir
        self._train_steps = train_steps

    def is_due(self, step: int) -> bool:
        """Whether the step is one that is evaluated."""
        return bool(step) and (step % self._settings.period == 0 or step >= self._train_steps)

    def is_done(self, step: int) -> bool:
        """Whether the step was evaluated, with all the figures that are due."""
        found = self._writer.evaluated(step)
        metrics = self._evaluators.task_metrics
        decoded = metrics.tasks if metrics and self._decodes(step) else ()
        return set(self._evaluators.teacher_forced.datasets) <= set(found) and all(
            found.get(task, set()) - TEACHER_FORCED for task in decoded
        )

    def run(self, step: int, stop: Callable[[], bool]) -> None:
        """Evaluates the model as it is, and logs, prints and compares the figures.

        Args:
          step: of the model.
          stop: asked between batches.

        Raises:
          Stopped: `stop` said so; nothing is logged.
        """
        tasks = ", ".join(self._evaluators.teacher_forced.datasets)
        print(f"\nstep {step}  evaluating {tasks}", flush=True)
        results = self._evaluators.run(step, self._decodes(step), stop)
        for task, metrics in results.items():
            self._writer.evaluation(step, task, metrics)
            print(f"\nstep {step}  {figures_line(task, metrics)}", flush=True)
        best.write(self._model_dir, self._best())

    def best_lines(self) -> list[str]:
        """Lines on each task's best evaluation so far."""
        return list(best.lines(self._evaluators.data.mixture_or_task_name, self._best()))

    def _best(self) -> dict:
        return best.peaks(self._writer.evaluations)

    def nlp(self, batch) -> float:
        """NLP of one batch as the feed gives it, at the evaluation capacity."""
        return self._evaluators.teacher_forced.nlp(batch)

    def _decodes(self, step: int) -> bool:
        """Whether the tasks' own metrics are due at the step, if it is evaluated."""
        period = self._settings.decode_period
        return step >= self._train_steps or bool(period and step % period == 0)
