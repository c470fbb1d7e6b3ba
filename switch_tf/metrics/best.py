"""The best evaluations of a run: each task's peak and its step (paper, Sec. 4.2)."""

import dataclasses
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping

from switch_tf.checkpoints.model_dir import ModelDir, write_as_chief
from switch_tf.data import registry
from switch_tf.data.batch_shape import LOST_SHARES
from switch_tf.metrics import figures
from switch_tf.metrics.writer import KEYS

# Fields of an evaluation record that are not scores.
_NO_SCORES = KEYS | {"tokens", "decoded", "dropped", *LOST_SHARES}


@dataclasses.dataclass(frozen=True)
class Peak:
    """The highest value of a metric, and the first step that reached it."""

    value: float
    step: int


def peaks(evaluations: Iterable[Mapping]) -> dict[str, dict[str, Peak]]:
    """Task -> metric -> its peak; higher is better for every metric.

    Args:
      evaluations: the records in `MetricsWriter.evaluations`.
    """
    found: dict[str, dict[str, Peak]] = {}
    for record in evaluations:
        of_task = found.setdefault(record["task"], {})
        for name in record.keys() - _NO_SCORES:
            value = record[name]
            # The correlation of constant predictions is NaN, with which every comparison is false.
            if math.isnan(value):
                continue
            if name not in of_task or value > of_task[name].value:
                of_task[name] = Peak(value, record["step"])
    return found


def lines(mixture_or_task_name: str, found: Mapping[str, Mapping[str, Peak]]) -> Iterator[str]:
    """One line per task and, for a mixture with an average, the average of its tasks' peaks.

    Args:
      mixture_or_task_name: the evaluated mixture or task.
      found: the result of `peaks`.
    """
    for task, metrics in found.items():
        shown = (
            f"{name} {figures.shown(name, peak.value)} at step {peak.step}"
            for name, peak in sorted(metrics.items())
        )
        yield f"best of {task}: " + ", ".join(shown)
    values = {task: {n: p.value for n, p in metrics.items()} for task, metrics in found.items()}
    average = registry.average(mixture_or_task_name, values)
    if average is not None:
        yield f"best of {mixture_or_task_name}: average of its tasks' peaks {average:.4g}"


def sizes_line(evaluations: Iterable[Mapping]) -> str | None:
    """A line that names the first task whose evaluations are of different sizes, if there is one.

    `Evaluation.batches` may have changed during the run, and such figures are not comparable.

    Args:
      evaluations: the records in `MetricsWriter.evaluations`.
    """
    first: dict[str, dict[float, int]] = {}
    for record in evaluations:
        if "tokens" in record:
            first.setdefault(record["task"], {}).setdefault(record["tokens"], record["step"])
    for task, steps in first.items():
        if len(steps) > 1:
            parts = (f"{tokens:,.0f} target tokens from step {s}" for tokens, s in steps.items())
            return f"the best are among evaluations of different sizes: of {task}, " + ", ".join(
                parts
            )
    return None


def write(
    model_dir: str, found: Mapping[str, Mapping[str, Peak]], kept: Collection[int] = ()
) -> None:
    """Writes the peaks to `best.json` in a MODEL_DIR: task -> metric -> value and step.

    Args:
      model_dir: the MODEL_DIR.
      found: the result of `peaks`.
      kept: steps whose checkpoints stay; their peaks name them.
    """
    folder = ModelDir(model_dir)

    def plain(peak):
        named = {"checkpoint": os.path.basename(folder.checkpoint(peak.step))}
        return dataclasses.asdict(peak) | (named if peak.step in kept else {})

    every = {
        task: {name: plain(peak) for name, peak in sorted(metrics.items())}
        for task, metrics in found.items()
    }
    write_as_chief(folder.best, every)
