"""What is measured of a run: figures read from what it logged."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from switch_tf.reproduce.training_run import TrainingRun

# Model -> name of a metric -> its value of each seed.
Measured = Mapping[str, Mapping[str, Sequence[float]]]

# Compilation, and what the system does at a run's start.
_UNTIMED_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a run; higher is better.

    Attributes:
      name: heads its column.
      read: the figure of a run, or None where it has none: fine-tuning has no figure of
        pre-training.
      unit: of a difference of two.
      digits: shown behind the point.
    """

    name: str
    read: Callable[[TrainingRun], float | None]
    unit: str = ""
    digits: int = 3


def evaluated(task: str, figure: str) -> Callable[[TrainingRun], float | None]:
    """Reads a figure of a task's last evaluation."""

    def read(run):
        found = [r[figure] for r in run.records("evaluation") if r["task"] == task and figure in r]
        return found[-1] if found else None

    return read


def tokens_per_second(run: TrainingRun) -> float:
    """Those of the median training step."""
    records = run.records("train")[_UNTIMED_STEPS:]
    return statistics.median(record["tokens_per_second"] for record in records)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Validation NLP of one pre-training run.

    Attributes:
      steps: of its evaluations, ascending.
      nlp: minus nats per target token at the evaluation capacity.
      nlp_dropless: the same where no token is dropped.
    """

    steps: tuple[int, ...]
    nlp: tuple[float, ...]
    nlp_dropless: tuple[float, ...]

    @classmethod
    def of(cls, run: TrainingRun, task: str) -> "Curve":
        """That of a run's evaluations of a task."""
        records = [record for record in run.records("evaluation") if record["task"] == task]
        return cls(*(tuple(r[name] for r in records) for name in ("step", "nlp", "nlp_dropless")))

    def steps_to(self, nlp: float) -> float | None:
        """Steps needed for `nlp`, on the line between two evaluations; None if it was not reached.

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
