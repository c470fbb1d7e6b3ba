"""Periodic evaluation during a run: when it is due, what has been logged, and what is best."""

from collections.abc import Callable, Mapping

from switch_tf import runtime, storage
from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.evaluation import ranking
from switch_tf.evaluation.evaluators import Evaluators
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.teacher_forced import TEACHER_FORCED
from switch_tf.metrics import best, figures
from switch_tf.metrics.writer import MetricsWriter


class PeriodicEvaluation:
    """Evaluates a run periodically, and at its last step.

    All that it knows of earlier evaluations is in the run's log, so that a resumed run stops early
    and keeps checkpoints exactly as an uninterrupted one.

    Args:
      evaluators: evaluators of the model.
      settings: when to evaluate.
      writer: writer of the run's log.
      model_dir: MODEL_DIR of the run.
      train_steps: the last step.

    Attributes:
      stops_early: whether as many evaluations as `Evaluation.early_stopping` allows have come since
        the best one.
      kept: step -> what its evaluation is best by, of the steps whose checkpoints are to be kept.
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
        self._dir = ModelDir(model_dir)
        self._train_steps = train_steps
        self._name = evaluators.data.mixture_or_task_name
        self._rank(self._dir.steps())

    def is_due(self, step: int) -> bool:
        """Whether an evaluation is due at the step."""
        return bool(step) and (step % self._settings.period == 0 or step >= self._train_steps)

    def is_done(self, step: int) -> bool:
        """Whether the step has been evaluated, with all figures that are due."""
        found = self._writer.evaluated(step, self._settings.split)
        metrics = self._evaluators.task_metrics
        decoded = metrics.tasks if metrics and self._decodes(step) else ()
        return set(self._evaluators.teacher_forced.datasets) <= set(found) and all(
            found.get(task, set()) - TEACHER_FORCED for task in decoded
        )

    def run(self, step: int, stop: Callable[[], bool]) -> None:
        """Evaluates the model, logs and prints the figures, and updates `stops_early` and `kept`.

        Args:
          step: step of the model.
          stop: called between batches; returns whether to stop.

        Raises:
          EvaluationInterrupt: `stop` returned True; nothing is logged.
        """
        decodes = self._decodes(step)
        self._evaluate(step, decodes, stop)
        if self.stops_early and self._settings.decode and not decodes:
            # It has turned out to be the last step, of which the tasks' own metrics are due.
            self._evaluate(step, True, stop)

    def _evaluate(self, step: int, decodes: bool, stop: Callable[[], bool]) -> None:
        tasks, split = ", ".join(self._evaluators.teacher_forced.datasets), self._settings.split
        runtime.tell(f"\nstep {step}  evaluating {tasks}")
        folder = self._dir.predictions(split, step) if self._settings.predictions else None
        results = self._evaluators.run(step, decodes, stop, folder)
        for task, metrics in results.items():
            self._writer.evaluation(step, task, metrics, split)
            runtime.tell(f"\nstep {step}  {figures.line(task, metrics)}")
        if folder and decodes and self._evaluators.task_metrics:
            runtime.tell(f"predictions of step {step}: {folder}")
        self._rank([*self._dir.steps(), step])

    def write_best(self, ended: bool = False) -> None:
        """Writes the best evaluations, if any; the checkpoints of `kept` must be there.

        Args:
          ended: whether the run removes no checkpoint any more, so that all that are there are
            named, not only those of `kept`.
        """
        if self._evaluations:
            best.write(self._dir.path, self._peaks(), self._dir.steps() if ended else self.kept)

    def rewind(self) -> None:
        """Forgets the evaluations that the log has dropped, also in best.json."""
        self._rank(self._dir.steps())
        if storage.exists(self._dir.best):
            best.write(self._dir.path, self._peaks(), self.kept)

    def _rank(self, there: list[int]) -> None:
        """Sets `stops_early` and, among the steps whose checkpoints can be kept, `kept`."""
        settings = self._settings
        patience, found = settings.early_stopping, self._evaluations
        self.stops_early = patience is not None and self._score.since_peak >= patience
        kept = ranking.steps_to_keep(settings.keep_best, self._score, best.peaks(found), found)
        self.kept = {step: reasons for step, reasons in kept.items() if step in there}

    @property
    def _evaluations(self) -> list[Mapping]:
        """The records of this split; those of an earlier version do not name theirs."""
        split = self._settings.split
        return [r for r in self._writer.evaluations if r.get("split", split) == split]

    @property
    def _score(self) -> ranking.Score:
        by_own = self._settings.decode and self._settings.decode_period > 0
        return ranking.score(self._name, self._evaluations, by_own)

    def _peaks(self) -> dict[str, dict[str, best.Peak]]:
        """Each task's peaks, and that of the evaluations as a whole."""
        peaks, score = best.peaks(self._evaluations), self._score
        if score.peak is not None:
            peaks.setdefault(score.task, {}).setdefault(score.metric, score.peak)
        return peaks

    def early_line(self) -> str:
        """A line on why the run stops early."""
        score = self._score
        since = f" than {score.peak.value:.4g} at step {score.peak.step}" if score.peak else ""
        return (
            f"stops early: {score.since_peak} evaluations without a better {score.metric} of "
            f"{score.task}{since}; raise Evaluation.early_stopping to continue"
        )

    def best_lines(self) -> list[str]:
        """Lines on each task's best evaluation so far, and on the checkpoints kept for them."""
        sizes = best.sizes_line(self._evaluations)
        lines = [*best.lines(self._name, self._peaks()), *filter(None, [sizes])]
        for step, reasons in sorted(self.kept.items()):
            lines.append(f"kept: {self._dir.checkpoint(step)}, best by {', '.join(reasons)}")
        return lines

    def nlp(self, batch) -> float:
        """NLP of one batch from the feed, at the evaluation capacity."""
        return self._evaluators.teacher_forced.nlp(batch)

    def _decodes(self, step: int) -> bool:
        """Whether an evaluation at the step includes the tasks' own metrics."""
        period, is_last = self._settings.decode_period, step >= self._train_steps
        return is_last or self.stops_early or bool(period and step % period == 0)
