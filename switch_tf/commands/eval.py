"""`switch-tf eval`: evaluates a checkpoint as configured by gin."""

from collections.abc import Sequence

from switch_tf.commands.launch import TASK, check
from switch_tf.hosts import agreement
from switch_tf.hosts.cluster import FLAGS

NEEDS, RUN_FILE = (*TASK, "evaluate.checkpoint_path"), "eval.gin"


def main(argv: Sequence[str]) -> None:
    """Runs `evaluate` with the given gin configuration."""
    description = "Evaluates a checkpoint on a task or on each task of a mixture."
    check("eval", description, argv, NEEDS, RUN_FILE, FLAGS).start()
    from switch_tf.evaluation.run import evaluate

    with agreement.losses_told():
        evaluate()
