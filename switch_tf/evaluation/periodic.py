"""Periodic evaluation during a run: when it is due, and what has been logged."""

from collections.abc import Callable

from switch_tf.evaluation.evaluators import Evaluators, figures_line
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.teacher_forced import TEACHER_FORCED
from switch_tf.metrics import best
from switch_tf.metrics.writer import MetricsWriter


class PeriodicEvaluation:
    """Evaluates a run periodically, and at its last step.

    Args:
      evaluators: evaluators of the model.
      settings: when to evaluate.
      writer: writer of the run's log.
      model_dir: MODEL_DIR of the run.
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
        """Whether an evaluation is due at the step."""
        return bool(step) and (step % self._settings.period == 0 or step >= self._train_steps)

    def is_done(self, step: int) -> bool:
        """Whether the step has been evaluated, with all figures that are due."""
        found = self._writer.evaluated(step)
        metrics = self._evaluators.task_metrics
        decoded = metrics.tasks if metrics and self._decodes(step) else ()
        return set(self._evaluators.teacher_forced.datasets) <= set(found) and all(
            found.get(task, set()) - TEACHER_FORCED for task in decoded
        )

    def run(self, step: int, stop: Callable[[], bool]) -> None:
        """Evaluates the model, logs and prints the figures, and updates the best evaluations.

        Args:
          step: step of the model.
          stop: called between batches; returns whether to stop.

        Raises:
          EvaluationInterrupt: `stop` returned True; nothing is logged.
        """
        tasks = ", ".join(self._evaluators.teacher_forced.datasets)
        print(f"\nstep {step}  evaluating {tasks}", flush=True)
        results = self._evaluators.run(step, self._decodes(step), stop)
        for task, metrics in results.items():
            self._writer.evaluation(step, task, metrics)
            print(f"\nstep {step}  {figures_line(task, metrics)}", flush=True)
        best.write(self._model_dir, self._best())

    def best_lines(self) -> list[str]:
        """Lines that describe each task's best evaluation so far."""
        return list(best.lines(self._evaluators.data.mixture_or_task_name, self._best()))

    def _best(self) -> dict:
        return best.peaks(self._writer.evaluations)

    def nlp(self, batch) -> float:
        """NLP of one batch from the feed, at the evaluation capacity."""
        return self._evaluators.teacher_forced.nlp(batch)

    def _decodes(self, step: int) -> bool:
        """Whether an evaluation at the step includes the tasks' own metrics."""
        period = self._settings.decode_period
        return step >= self._train_steps or bool(period and step % period == 0)
