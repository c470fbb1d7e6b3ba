"""SeqIO's tasks and mixtures by name, with errors that help."""

import difflib
import importlib
from collections.abc import Sequence

from switch_tf.errors import UserError


def load_modules(modules: Sequence[str]) -> None:
    """Imports modules, which registers their tasks.

    Raises:
      UserError: no such module.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(
                f"MIXTURE_OR_TASK_MODULE: cannot import '{module}' ({error}): give a module that "
                "registers tasks, such as 'tasks.pydocs'"
            ) from error


def find(name: str):
    """The `seqio.Task` or `seqio.Mixture` of this name.

    Raises:
      UserError: none is registered; names the nearest.
    """
    import seqio

    names = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        nearest = f"nearest: {', '.join(close)}; " if close else ""
        raise UserError(
            f"no task or mixture '{name}' is registered; {nearest}name the module that registers "
            "it in MIXTURE_OR_TASK_MODULE; `switch-tf tasks` lists what there is"
        )
    return seqio.get_mixture_or_task(name)
