"""Metrics of a finished run, read from its result."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from switch_tf.reproduce.result import Result

# Model -> metric name -> one value per seed: a number or, of a metric that is not shown, a `Curve`.
Measurements = Mapping[str, Mapping[str, Sequence]]
Read = Callable[[Result], float | None]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of a run.

    Attributes:
      name: the heading of its column.
      read: returns the metric of a run, or None if the run has none, such as pre-training metrics
        of a fine-tuning run. Infinite for a run that diverged.
      unit: the unit of a difference between two values.
      digits: number of decimals shown.
      sign: 1 if more is better, -1 if less is.
      is_shown: whether reports have a column of it; else only claims use it.
    """

    name: str
    read: Read
    unit: str = ""
    digits: int = 3
    sign: int = 1
    is_shown: bool = True

    def number(self, value: float) -> str:
        """A value as text; `diverged`, or `not reached` where less is better, if it is infinite."""
        if not math.isfinite(value):
            return "diverged" if self.sign > 0 else "not reached"
        return f"{value:,.{self.digits}f}"

    def lead(self, value: float) -> str:
        """How much better a value is than another, as text, such as `0.063 nats ahead of`."""
        size = f"{self.number(abs(value))} {self.unit}".rstrip()
        return f"{size} {'behind' if value < 0 else 'ahead of'}"


def evaluated(task: str, figure: str, step: int | None = None) -> Read:
    """Makes a reader of a figure in a task's last evaluation; minus infinity if a run diverged.

    Args:
      task: the task.
      figure: the figure.
      step: the evaluation of this step, in place of the last.
    """

    def read(result):
        found = [
            record[figure]
            for record in result.evaluations
            if record["task"] == task and figure in record and step in (None, record["step"])
        ]
        if result.diverged_at is not None:
            return -math.inf
        return found[-1] if found else None

    return read


def best(figures: Mapping[str, str]) -> Read:
    """Makes a reader of the mean over tasks of the best evaluation of a figure (Sec. 4.2).

    Args:
      figures: task -> its figure.
    """

    def read(result):
        values = []
        for task, figure in figures.items():
            found = [r[figure] for r in result.evaluations if r["task"] == task and figure in r]
            if not found:
                return None
            values.append(max(found))
        return statistics.mean(values)

    return read


def fact(name: str, unit: float = 1.0) -> Read:
    """Makes a reader of a number in `run.json`, times a unit."""
    return lambda result: unit * result.facts[name]


def tokens_per_second(result: Result) -> float:
    """The tokens per second of the median training step."""
    return result.tokens_per_second


def curve_of(task: str) -> Callable[[Result], "Curve | None"]:
    """Makes a reader of a task's `Curve`, for a metric that is not shown."""

    def read(result):
        found = Curve.of(result, task)
        return found if found.steps else None

    return read


def examples_per_second(result: Result) -> float:
    """The examples per second of the median training step; a row of a batch is an example."""
    return (
        result.tokens_per_second * result.settings["BATCH_SIZE"] / result.facts["tokens_per_step"]
    )


def steps_to(task: str, nlp: float) -> Read:
    """Makes a reader of the steps until a task's NLP is reached; infinite if it never is."""

    def read(result):
        if not any(record["task"] == task and "nlp" in record for record in result.evaluations):
            return None
        found = Curve.of(result, task).steps_to(nlp)
        return math.inf if found is None else found

    return read


def minutes_to(task: str, nlp: float) -> Read:
    """Makes a reader of the minutes of training steps until a task's NLP is reached."""
    steps = steps_to(task, nlp)

    def read(result):
        found = steps(result)
        return None if found is None else found * result.seconds_per_step / 60

    return read


@dataclasses.dataclass(frozen=True)
class Curve:
    """The validation NLP (negative log perplexity) curve of one pre-training run.

    Attributes:
      steps: the steps of its evaluations, ascending.
      nlp: NLP at the evaluation capacity, in minus nats per target token.
      nlp_dropless: NLP when no token is dropped, in the same unit.
      seconds_per_step: the median of its training steps, without evaluations and checkpoints.
    """

    steps: tuple[int, ...]
    nlp: tuple[float, ...]
    nlp_dropless: tuple[float, ...]
    seconds_per_step: float = 1.0

    @classmethod
    def of(cls, result: Result, task: str) -> "Curve":
        """The curve of a run's evaluations of a task."""
        records = [r for r in result.evaluations if r["task"] == task and "nlp" in r]
        steps, nlp = (tuple(r[name] for r in records) for name in ("step", "nlp"))
        dropless = tuple(r.get("nlp_dropless", r["nlp"]) for r in records)
        return cls(steps, nlp, dropless, result.seconds_per_step)

    @classmethod
    def mean(cls, curves: Sequence["Curve"]) -> "Curve":
        """The mean curve of several seeds, at the steps that all of them evaluated."""
        steps = sorted(set.intersection(*(set(curve.steps) for curve in curves)))

        def at(name: str) -> tuple[float, ...]:
            of_seeds = [dict(zip(c.steps, getattr(c, name), strict=True)) for c in curves]
            return tuple(statistics.mean(found[step] for found in of_seeds) for step in steps)

        seconds = statistics.mean(curve.seconds_per_step for curve in curves)
        return cls(tuple(steps), at("nlp"), at("nlp_dropless"), seconds)

    def steps_to(self, nlp: float) -> float | None:
        """Steps needed to reach `nlp`, interpolated between evaluations; None if never reached.

        >>> Curve((10, 20), (-5.0, -4.0), (-5.0, -4.0)).steps_to(-4.5)
        15.0
        """
        before = None
        for step, value in zip(self.steps, self.nlp, strict=True):
            if value >= nlp:
                if before is None:
                    return float(step)
                share = (nlp - before[1]) / (value - before[1])
                return before[0] + share * (step - before[0])
            before = (step, value)
        return None
