"""`switch-tf plan`: what a configuration needs and communicates, before it is run."""

import argparse
import re
from collections.abc import Sequence

from switch_tf import config
from switch_tf.commands.launch import DATA, check
from switch_tf.errors import UserError
from switch_tf.planner.slices import Slice

NEEDS, RUN_FILE = DATA, "plan.gin"
_FLAGS = {
    "collectives": "compile one training step for the mesh, and list what its devices exchange",
    "dtypes": "compile one training step, and list the precision its Switch layers compute in",
    "memory": "run two training steps on the mesh, and report how much memory they took",
}
_SLICES = {
    "slice": {
        "metavar": "TYPE-NUMBER",
        "help": "plan a training step on a slice of TPUs, such as v3-32 or v6e-256: bytes, "
        "collectives, time, cost, and whether it fits; without MESH_SHAPE, list the meshes and "
        "layouts that fit, the fastest first",
    },
    "cores": {
        "metavar": "NUMBER",
        "help": "list the meshes and layouts that fit so many cores of TPU v3, the paper's",
    },
}


def main(argv: Sequence[str]) -> None:
    """Prints the plan for the given gin configuration."""
    launch = check(
        "plan",
        "Counts a model's parameters, FLOPs and bytes on each device from shapes alone.",
        argv,
        NEEDS,
        RUN_FILE,
        flags={name: {"action": "store_true", "help": text} for name, text in _FLAGS.items()}
        | _SLICES,
    )
    asked = {name: getattr(launch.args, name) for name in _FLAGS}
    on, ranks = _slice(launch.args, launch.given)
    launch.start(
        None if any(asked.values()) else 1, shows_lowered=asked["collectives"] or asked["dtypes"]
    )
    from switch_tf.planner.plan import STEPS, plan

    steps = launch.given.get("train.train_steps", STEPS)
    plan(**asked, on=on, ranks=ranks, steps=steps)


def _slice(args: argparse.Namespace, given: config.Values) -> tuple[Slice | None, bool]:
    """The slice to plan on, and whether to list what fits it.

    Raises:
      UserError: the flags do not go together, or name no slice.
    """
    has_mesh = given.get("ModelSetup.mesh_shape") is not None
    if args.cores is not None:
        if args.slice is not None:
            raise UserError("--cores and --slice name two slices: leave one out")
        if has_mesh:
            raise UserError(
                "--cores lists meshes: leave MESH_SHAPE and gin/layouts out, or plan them with "
                f"--slice=v3-{args.cores}"
            )
        given = f"--cores='{args.cores}'"
        if not re.fullmatch("[1-9][0-9]*", args.cores):
            raise UserError(f"{given}: give a number of TPU v3 cores, such as 512")
        return Slice.parse(f"v3-{args.cores}", given), True
    if args.slice is None:
        return None, False
    return Slice.parse(args.slice), not has_mesh
