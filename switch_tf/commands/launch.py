"""What `train` and `eval` have in common: flags, checks before TensorFlow, its start."""

import os
from collections.abc import Sequence

from switch_tf import config, runtime
from switch_tf import mesh as mesh_lib
from switch_tf.commands.flags import Parser, add_gin_flags, split_gin_args
from switch_tf.errors import UserError


def launch(command: str, description: str, argv: Sequence[str]) -> None:
    """Parses flags and gin, checks what can be checked, and starts TensorFlow on the devices.

    Args:
      command: name of the subcommand.
      description: for --help.
      argv: the arguments behind it.

    Raises:
      UserError: anything that does not fit.
    """
    bindings, rest = split_gin_args(argv)
    parser = Parser(
        prog=f"switch-tf {command}",
        description=description,
        epilog=f"example:\n  switch-tf {command} --gin_file=models/switch_tiny.gin "
        f"--gin_file=layouts/expert_data.gin --gin_file=runs/{_RUN_FILES[command]} "
        "--gin.MODEL_DIR=\"'/tmp/model'\"",
    )
    add_gin_flags(parser)
    args = parser.parse_args(rest)
    if not args.gin_file:
        raise UserError(f"--gin_file is missing; see switch-tf {command} --help")
    macros = config.precheck(args.gin_file, bindings)
    devices = check_mesh(macros)
    check_checkpoint_paths(macros)
    runtime.start(devices)
    config.load(args.gin_file, bindings)


_RUN_FILES = {"train": "pretrain.gin", "eval": "eval.gin"}


def check_checkpoint_paths(given: dict) -> None:
    """Checks that the checkpoints to be read are there.

    Args:
      given: macro -> value, of `config.precheck`.

    Raises:
      UserError: naming the macro and the path.
    """
    for name in ("INITIAL_CHECKPOINT_PATH", "CHECKPOINT_PATH"):
        path = given.get(name)
        if isinstance(path, str) and "://" not in path and not os.path.isdir(path):
            raise UserError(
                f"{name}='{path}': no such folder; give a MODEL_DIR that holds checkpoint_<step>, "
                "or such a folder"
            )


def check_mesh(given: dict) -> int:
    """Checks mesh, layout rules, experts and batch against each other; needs no TensorFlow.

    Args:
      given: macro -> value, of `config.precheck`. Not called `macros`: to read one here is no use
        of it, and a macro that nothing uses is an error.

    Returns:
      The number of devices.

    Raises:
      UserError: naming the setting and the mend.
    """
    shape = mesh_lib.parse_mesh_shape(given.get("MESH_SHAPE", "batch:1"))
    rules = mesh_lib.parse_layout_rules(given.get("LAYOUT_RULES", "batch:batch"), shape)
    sizes = {}
    if isinstance(given.get("BATCH_SIZE"), int):
        sizes["batch"] = (given["BATCH_SIZE"], "BATCH_SIZE")
    if isinstance(given.get("NUM_EXPERTS"), int):
        sizes["experts"] = (given["NUM_EXPERTS"], "NUM_EXPERTS")
    mesh_lib.check_divides(rules, shape, sizes)
    total = 1
    for size in shape.values():
        total *= size
    return total
