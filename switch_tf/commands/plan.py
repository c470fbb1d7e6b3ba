"""`switch-tf plan`: what a configuration needs and communicates, before it is run."""

from collections.abc import Sequence

from switch_tf.commands.launch import DATA, check

NEEDS, RUN_FILE = DATA, "plan.gin"
_FLAGS = {
    "collectives": "compile one training step for the mesh, and list what its devices exchange",
    "dtypes": "compile one training step, and list the precision its Switch layers compute in",
    "memory": "run two training steps on the mesh, and report how much memory they took",
}


def main(argv: Sequence[str]) -> None:
    """Prints the plan for the given gin configuration."""
    launch = check(
        "plan",
        "Counts a model's parameters, FLOPs and bytes on each device from shapes alone.",
        argv,
        NEEDS,
        RUN_FILE,
        flags={name: {"action": "store_true", "help": text} for name, text in _FLAGS.items()},
    )
    asked = {name: getattr(launch.args, name) for name in _FLAGS}
    launch.start(
        None if any(asked.values()) else 1, shows_lowered=asked["collectives"] or asked["dtypes"]
    )
    from switch_tf.planner.plan import plan

    plan(**asked)
