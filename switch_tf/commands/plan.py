"""`switch-tf plan`: what a configuration needs and sends, before it is run."""

from collections.abc import Sequence

from switch_tf.commands.launch import check

_FLAGS = {
    "collectives": "compile one training step on CPU devices, and list what crosses them",
    "dtypes": "trace one training step, and list in what precision its Switch layers compute",
}


def main(argv: Sequence[str]) -> None:
    """Prints the plan of the gin configuration."""
    launch = check("plan", "Counts and places a model, which is not made for it.", argv, _FLAGS)
    traces = launch.args.collectives or launch.args.dtypes
    launch.start(None if traces else 1, shows_lowered=launch.args.collectives)
    from switch_tf.planner.plan import plan

    plan(collectives=launch.args.collectives, dtypes=launch.args.dtypes)
