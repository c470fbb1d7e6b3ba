"""`switch-tf train`: pre-trains or fine-tunes a model as configured by gin, or resumes it."""

from collections.abc import Sequence

from switch_tf.commands.launch import check


def main(argv: Sequence[str]) -> None:
    """Runs `train` with the given gin configuration; the same command resumes it."""
    check("train", "Trains a model; the same command again resumes it.", argv).start()
    from switch_tf.training.train import train

    train()
