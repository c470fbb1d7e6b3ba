"""`switch-tf eval`: evaluates a checkpoint as configured by gin."""

from collections.abc import Sequence

from switch_tf.commands.launch import check


def main(argv: Sequence[str]) -> None:
    """Runs `evaluate` with the given gin configuration."""
    check("eval", "Evaluates a checkpoint on a task or on each task of a mixture.", argv).start()
    from switch_tf.evaluation.run import evaluate

    evaluate()
