"""The experiments of `switch-tf reproduce`; importing this does not import TensorFlow."""

from switch_tf.errors import UserError
from switch_tf.gin_files import nearest
from switch_tf.reproduce.experiment import Experiment
from switch_tf.reproduce.experiments import (
    benchmarks,
    beyond,
    distillation,
    finetuning,
    languages,
    quality,
    quickstart,
    training,
)

_MODULES = (quality, training, finetuning, distillation, languages, beyond, benchmarks)
_OF_THE_PAPER = (experiment for module in _MODULES for experiment in module.EXPERIMENTS)
EXPERIMENTS = {experiment.name: experiment for experiment in (quickstart.SHORT, *_OF_THE_PAPER)}


def find(name: str, variant: str | None = None) -> Experiment:
    """Finds an experiment by name.

    Args:
      name: its name.
      variant: the flag, without dashes, of one of its variants; None for the experiment itself.

    Raises:
      UserError: there is none, and the message suggests the nearest name; or the flag belongs to
        others.
    """
    if name not in EXPERIMENTS:
        raise UserError(
            f"no experiment '{name}'{nearest(name, EXPERIMENTS)}; switch-tf reproduce list says "
            "the names"
        )
    experiment = EXPERIMENTS[name]
    if variant is None:
        return experiment
    if variant not in experiment.variants:
        others = ", ".join(other for other, _ in variants().get(variant, ()))
        raise UserError(f"'{name}' has no --{variant}; it belongs to {others}")
    return experiment.variants[variant]


def variants() -> dict[str, list[tuple[str, Experiment]]]:
    """Flag, without dashes -> names of the experiments that have it, each with its variant."""
    found = {}
    for name, experiment in EXPERIMENTS.items():
        for flag, variant in experiment.variants.items():
            found.setdefault(flag, []).append((name, variant))
    return found
