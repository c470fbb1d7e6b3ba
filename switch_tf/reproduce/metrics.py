"""Metrics of a finished run, read from its log."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from switch_tf.reproduce.training_run import TrainingRun

# Model -> metric name -> one value per seed.
Measurements = Mapping[str, Mapping[str, Sequence[float]]]

# Skipped when timing: compilation, and system effects at the start of a run.
_UNTIMED_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of a run; higher is better.

    Attributes:
      name: the heading of its column.
      read: returns the metric of a run, or None if the run has none, such as pre-training metrics
        of a fine-tuning run.
      unit: the unit of a difference between two values.
      digits: number of decimals shown.
    """

    name: str
    read: Callable[[TrainingRun], float | None]
    unit: str = ""
    digits: int = 3

    def lead(self, value: float) -> str:
        """A difference to another value as text, such as `0.063 nats ahead of`."""
        size = f"{abs(value):.{self.digits}f} {self.unit}".rstrip()
        return f"{size} {'behind' if value < 0 else 'ahead of'}"


def evaluated(task: str, figure: str) -> Callable[[TrainingRun], float | None]:
    """Makes a reader of a figure in a task's last evaluation."""

    def read(run):
        found = [r[figure] for r in run.records("evaluation") if r["task"] == task and figure in r]
        return found[-1] if found else None

    return read


def tokens_per_second(run: TrainingRun) -> float:
    """The tokens per second of the median training step."""
    return _median(run, "tokens_per_second")


def _median(run: TrainingRun, figure: str) -> float:
    """The median of a figure over the steps after the first ones."""
    return statistics.median(r[figure] for r in run.records("train")[_UNTIMED_STEPS:])


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
    def of(cls, run: TrainingRun, task: str) -> "Curve":
        """The curve of a run's evaluations of a task."""
        records = [record for record in run.records("evaluation") if record["task"] == task]
        values = (tuple(r[name] for r in records) for name in ("step", "nlp", "nlp_dropless"))
        return cls(*values, _median(run, "seconds"))

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
