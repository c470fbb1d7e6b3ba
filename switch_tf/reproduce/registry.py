"""The experiments of `switch-tf reproduce`; importing this does not import TensorFlow."""

from switch_tf.errors import UserError
from switch_tf.gin_files import nearest
from switch_tf.reproduce import quickstart
from switch_tf.reproduce.experiment import Experiment

EXPERIMENTS = {experiment.name: experiment for experiment in (quickstart.SHORT, quickstart.LONG)}


def find(name: str) -> Experiment:
    """Finds an experiment by name.

    Raises:
      UserError: there is none; the message suggests the nearest name.
    """
    if name not in EXPERIMENTS:
        raise UserError(
            f"no experiment '{name}'{nearest(name, EXPERIMENTS)}; "
            "switch-tf reproduce --help lists what there is"
        )
    return EXPERIMENTS[name]
