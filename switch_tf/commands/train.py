"""`switch-tf train`: pre-trains or fine-tunes a model as configured by gin, or resumes it."""

from collections.abc import Sequence

from switch_tf.commands.launch import TASK, check
from switch_tf.errors import UserError
from switch_tf.hosts import agreement
from switch_tf.hosts.cluster import FLAGS
from switch_tf.metrics import goodput
from switch_tf.training.profiling import profiled_steps

NEEDS, RUN_FILE = (*TASK, "train.train_steps"), "pretrain.gin"
_PROFILE = {
    "profile_steps": {
        "metavar": "FIRST-LAST",
        "help": "write a profile of these steps, such as 10-20, for TensorBoard and xprof into "
        "MODEL_DIR, and log the shares of computing, collectives and input",
    },
}


def main(argv: Sequence[str]) -> None:
    """Runs `train` with the given gin configuration; the same command resumes it.

    Raises:
      UserError: a flag or setting is invalid, or nothing of the run would be left.
    """
    with goodput.of_command():
        _run(argv)


def _run(argv: Sequence[str]) -> None:
    description = (
        "Trains a model. Ctrl-C or SIGTERM saves a checkpoint and ends with status 130 or 143; "
        "rerun the command to resume."
    )
    launch = check("train", description, argv, NEEDS, RUN_FILE, {**FLAGS, **_PROFILE})
    asked, steps = launch.args.profile_steps, range(0)
    if asked is not None:
        steps = profiled_steps(asked, launch.given.get("train.train_steps"))
    folder = launch.given.get("train.model_dir", "")
    if folder.startswith("ram://"):
        raise UserError(
            f"MODEL_DIR='{folder}' is gone when the command ends: give a folder on a disk"
        )
    with agreement.losses_told():
        launch.start()
        from switch_tf.training.train import train

        train(profile_steps=steps)
