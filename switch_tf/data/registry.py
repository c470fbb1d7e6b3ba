"""SeqIO's tasks and mixtures by name, with errors that help."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence

from switch_tf.errors import UserError
from switch_tf.gin_files import nearest

PROJECT_TASKS = "switch_tf.tasks"


def load_project_modules() -> None:
    """Imports each family of `tasks/`, which registers its tasks."""
    package = importlib.import_module(PROJECT_TASKS)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{PROJECT_TASKS}.{module.name}")


def names() -> list[str]:
    """Names of the registered tasks and mixtures, sorted."""
    import seqio

    return sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def find(name: str):
    """The `seqio.Task` or `seqio.Mixture` of this name.

    Raises:
      UserError: none is registered; names the nearest.
    """
    import seqio

    known = names()
    if name not in known:
        raise UserError(
            f"no task or mixture '{name}' is registered{nearest(name, known)}; name the module "
            "that registers it in MIXTURE_OR_TASK_MODULE; `switch-tf tasks` lists what there is"
        )
    return seqio.get_mixture_or_task(name)


def prepare(provider, use_cached: bool = False) -> None:
    """Makes or checks what a task or mixture reads: data first, then its vocabularies.

    Calls `prepare` of each source that has it. SeqIO would do the same work at first use, which may
    be in the middle of a run.

    Args:
      provider: a `seqio.Task` or `seqio.Mixture`.
      use_cached: the sources are not read, and need not be there.

    Raises:
      UserError: the data or a vocabulary is missing or malformed.
    """
    for task in getattr(provider, "tasks", [provider]):
        if not use_cached and hasattr(task.source, "prepare"):
            task.source.prepare()
        for feature in task.output_features.values():
            if hasattr(feature.vocabulary, "load_model"):
                feature.vocabulary.load_model()


_averages: dict[str, list[list[tuple[str, str]]]] = {}


def add_average(mixture: str, metrics: Mapping[str | tuple[str, ...], Sequence[str]]) -> None:
    """Has an evaluation of a mixture report one number: the mean over its tasks.

    Args:
      mixture: its name.
      metrics: task, or tasks that count as one -> names of metrics, whose mean is the score.
    """
    _averages[mixture] = [
        [(task, name) for task in ([tasks] if isinstance(tasks, str) else tasks) for name in names]
        for tasks, names in metrics.items()
    ]


def average(mixture: str, found: Mapping[str, Mapping[str, float]]) -> float | None:
    """The number of `add_average`, by task -> metric -> value; None where there is none.

    None, too, where a task or a metric of it was not evaluated: a mean over others is not it.
    """
    scores = []
    for metrics in _averages.get(mixture, ()):
        values = [found.get(task, {}).get(name) for task, name in metrics]
        if None in values:
            return None
        scores.append(sum(values) / len(values))
    return sum(scores) / len(scores) if scores else None
