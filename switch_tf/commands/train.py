"""`switch-tf train`: pre-trains or fine-tunes a model as configured by gin, or resumes it."""

from collections.abc import Sequence

from switch_tf.commands.launch import TASK, check

NEEDS, RUN_FILE = (*TASK, "train.train_steps"), "pretrain.gin"


def main(argv: Sequence[str]) -> None:
    """Runs `train` with the given gin configuration; the same command resumes it."""
    description = "Trains a model. Rerun the command to resume."
    check("train", description, argv, NEEDS, RUN_FILE).start()
    from switch_tf.training.train import train

    train()
