"""Looks up SeqIO tasks and mixtures by name, with helpful errors."""

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence

from switch_tf import storage, user_code
from switch_tf.errors import UserError
from switch_tf.gin_files import nearest

PROJECT_TASKS = "switch_tf.tasks"


def load_project_modules() -> None:
    """Imports every module of `tasks/`, which registers its tasks."""
    package = importlib.import_module(PROJECT_TASKS)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{PROJECT_TASKS}.{module.name}")


def names() -> list[str]:
    """The sorted names of the registered tasks and mixtures."""
    import seqio

    return sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def find(name: str):
    """Finds a `seqio.Task` or `seqio.Mixture` by name.

    Raises:
      UserError: none is registered; the message suggests the nearest name.
    """
    import seqio

    known = names()
    if name not in known:
        raise UserError(
            f"no task or mixture '{name}' is registered{nearest(name, known)}; set "
            "MIXTURE_OR_TASK_MODULE, or --module of switch-tf tasks, to the module that registers "
            "it; `switch-tf tasks` lists the names"
        )
    return seqio.get_mixture_or_task(name)


def prepare(provider, use_cached: bool = False, with_vocabularies: bool = True) -> None:
    """Prepares or checks what a task or mixture reads: first its data, then its vocabularies.

    See `availability.prepare`. SeqIO would do this work at first use, which may be in the middle of
    a run.

    Args:
      provider: a `seqio.Task` or `seqio.Mixture`.
      use_cached: whether caches are read, so that the sources need not exist.
      with_vocabularies: whether its vocabularies are prepared, too.

    Raises:
      UserError: data or a vocabulary is missing or malformed.
    """
    from switch_tf.data import availability, counts, skipping

    for task in getattr(provider, "tasks", [provider]):
        if not use_cached:
            counts.install(task)
            skipping.install(task)
            availability.prepare(task.source)
        for feature in task.output_features.values() if with_vocabularies else ():
            if hasattr(feature.vocabulary, "load_model"):
                feature.vocabulary.load_model()


def check_rates(mixture, tasks: Sequence) -> None:
    """Computes the rates at which tasks of a mixture are drawn, as SeqIO then does.

    Args:
      mixture: a `seqio.Mixture`.
      tasks: the tasks of it that are read.

    Raises:
      UserError: a rate cannot be computed, or is no number of at least 0, or all are 0.
    """
    rates = [_rate(mixture, task) for task in tasks]
    if not any(rates):
        raise UserError(
            f"mixture '{mixture.name}': the rates of all its tasks are 0: give one of those that "
            "have the split a rate above 0"
        )


def _rate(mixture, task) -> float:
    what = f"mixture '{mixture.name}': the rate of task '{task.name}'"
    try:
        rate = mixture.get_rate(task)
    except UserError:
        raise
    except Exception as error:
        place = user_code.place_of(error)
        told = place or f"{type(error).__name__}: {storage.first_line(error)}"
        raise UserError(f"{what} cannot be computed: {told}") from error
    if not (math.isfinite(rate) and rate >= 0):
        raise UserError(f"{what} is {rate}: give a number of at least 0")
    return rate


_averages: dict[str, list[list[tuple[str, str]]]] = {}


def add_average(mixture: str, metrics: Mapping[str | tuple[str, ...], Sequence[str]]) -> None:
    """Makes evaluations of a mixture report a single score, the mean over its tasks.

    Args:
      mixture: the mixture's name.
      metrics: task, or tuple of tasks that count as one -> names of the metrics averaged into its
        score.
    """
    _averages[mixture] = [
        [(task, name) for task in ([tasks] if isinstance(tasks, str) else tasks) for name in names]
        for tasks, names in metrics.items()
    ]


def average(mixture: str, found: Mapping[str, Mapping[str, float]]) -> float | None:
    """The score defined by `add_average`, given task -> metric -> value; None if undefined.

    Also None if a task or metric was not evaluated, because a mean over the others would differ.
    """
    scores = []
    for metrics in _averages.get(mixture, ()):
        values = [found.get(task, {}).get(name) for task, name in metrics]
        if None in values:
            return None
        scores.append(sum(values) / len(values))
    return sum(scores) / len(scores) if scores else None
