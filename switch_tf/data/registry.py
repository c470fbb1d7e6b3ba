"""Looks up SeqIO tasks and mixtures by name, with helpful errors."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence

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


def prepare(provider, use_cached: bool = False) -> None:
    """Prepares or checks what a task or mixture reads: first its data, then its vocabularies.

    See `availability.prepare`. SeqIO would do this work at first use, which may be in the middle of
    a run.

    Args:
      provider: a `seqio.Task` or `seqio.Mixture`.
      use_cached: whether caches are read, so that the sources need not exist.

    Raises:
      UserError: data or a vocabulary is missing or malformed.
    """
    from switch_tf.data import availability, skipping

    for task in getattr(provider, "tasks", [provider]):
        if not use_cached:
            skipping.install(task)
            availability.prepare(task.source)
        for feature in task.output_features.values():
            if hasattr(feature.vocabulary, "load_model"):
                feature.vocabulary.load_model()


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
