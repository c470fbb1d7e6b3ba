"""`switch-tf train`: pre-trains or fine-tunes a model as configured by gin, or resumes it."""

from collections.abc import Sequence

from switch_tf.commands.launch import TASK, check
from switch_tf.errors import UserError
from switch_tf.hosts import agreement
from switch_tf.hosts.cluster import FLAGS
from switch_tf.metrics import goodput

NEEDS, RUN_FILE = (*TASK, "train.train_steps"), "pretrain.gin"


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
    launch = check("train", description, argv, NEEDS, RUN_FILE, FLAGS)
    folder = launch.given.get("train.model_dir", "")
    if folder.startswith("ram://"):
        raise UserError(
            f"MODEL_DIR='{folder}' is gone when the command ends: give a folder on a disk"
        )
    with agreement.losses_told():
        launch.start()
        from switch_tf.training.train import train

        train()
