"""Ranks the evaluations of a run: which is the best, and how many have come since."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Literal

from switch_tf.evaluation.teacher_forced import TEACHER_FORCED
from switch_tf.metrics.best import Peak
from switch_tf.metrics.writer import KEYS

# A mixture's own figure, where `registry.add_average` defines one.
_AVERAGE = "average"


@dataclasses.dataclass(frozen=True)
class Score:
    """One figure of each evaluation of a run as a whole; higher is better.

    Attributes:
      task: the task or mixture that it is of.
      metric: its name.
      values: step -> value, in the order of evaluation.
    """

    task: str
    metric: str
    values: Mapping[int, float]

    @property
    def peak(self) -> Peak | None:
        """The highest value, and the first step that reached it; None if there is none."""
        numbers = {step: value for step, value in self.values.items() if not math.isnan(value)}
        if not numbers:
            return None
        best = max(numbers, key=numbers.__getitem__)
        return Peak(numbers[best], best)

    @property
    def since_peak(self) -> int:
        """Number of evaluations since the best one."""
        steps, peak = list(self.values), self.peak
        return len(steps) if peak is None else len(steps) - 1 - steps.index(peak.step)


def score(mixture_or_task_name: str, evaluations: Iterable[Mapping], by_own: bool) -> Score:
    """The score of each evaluation: a task's own, or a mixture's average or mean over tasks.

    Args:
      mixture_or_task_name: the evaluated mixture or task.
      evaluations: the records in `MetricsWriter.evaluations`.
      by_own: whether to score by the first of each task's own metrics, over the evaluations that
        have them, instead of by NLP.
    """
    name, metric = mixture_or_task_name, _AVERAGE if by_own else "mean_nlp"
    values: dict[int, float] = {}
    for step, tasks in _by_step(evaluations).items():
        of_mixture = tasks.get(name, {})
        if by_own and _AVERAGE in of_mixture:
            values[step] = of_mixture[_AVERAGE]
            continue
        firsts = {task: first_own(found) if by_own else "nlp" for task, found in tasks.items()}
        figures = [tasks[task][first] for task, first in firsts.items() if first in tasks[task]]
        if not figures:
            continue
        values[step] = sum(figures) / len(figures)
        if list(tasks) == [name]:
            metric = firsts[name]
        elif by_own:
            metric = "mean_metric"
    return Score(name, metric, values)


def first_own(figures: Mapping) -> str | None:
    """The first of a task's own metrics in the figures of an evaluation, if there are any."""
    return next((name for name in figures if name not in TEACHER_FORCED | KEYS), None)


def steps_to_keep(
    keep: Literal["score", "tasks"] | None,
    best: Score,
    peaks: Mapping[str, Mapping[str, Peak]],
    evaluations: Iterable[Mapping],
) -> dict[int, list[str]]:
    """Step -> what its evaluation is best by, of the evaluations whose checkpoint is kept.

    Args:
      keep: see `Evaluation.keep_best`.
      best: the score of the evaluations.
      peaks: the result of `best.peaks`.
      evaluations: the records in `MetricsWriter.evaluations`.
    """
    wanted: dict[tuple[str, str], int] = {}
    if keep is not None and best.peak is not None:
        wanted[best.task, best.metric] = best.peak.step
    if keep == "tasks":
        for record in evaluations:
            task = record["task"]
            for metric in {"nlp", first_own(record)} & peaks[task].keys():
                wanted[task, metric] = peaks[task][metric].step
    kept: dict[int, list[str]] = {}
    for (task, metric), step in sorted(wanted.items()):
        kept.setdefault(step, []).append(f"{metric} of {task}")
    return kept


def _by_step(evaluations: Iterable[Mapping]) -> dict[int, dict[str, dict]]:
    """Step -> task -> figures; of a step that was evaluated twice, those of both."""
    found: dict[int, dict[str, dict]] = {}
    for record in evaluations:
        of_task = found.setdefault(record["step"], {}).setdefault(record["task"], {})
        of_task.update(record)
    return found
