"""Shared by the commands that gin configures: flags, and checks before TensorFlow starts."""

import argparse
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Literal

from switch_tf import __version__, accelerators, config, gin_files, runtime
from switch_tf.commands import checks
from switch_tf.commands.device_defaults import dtype_of_device, mesh_of_slice
from switch_tf.commands.flags import Parser, add_gin_flags, split_gin_args
from switch_tf.commands.remembered import is_resumed, remember
from switch_tf.commands.resumed import changes
from switch_tf.errors import UserError
from switch_tf.hosts import agreement
from switch_tf.hosts.cluster import Cluster, settle
from switch_tf.hosts.meeting import meet
from switch_tf.hosts.settings import TIMEOUT, Hosts
from switch_tf.stages import importing, telling

# What the gin files of every command give.
DATA = ("TaskData.batch_size", "TaskData.task_feature_lengths")
TASK = (*DATA, "TaskData.mixture_or_task_name")
# What files of training require, and other commands that take them set to nothing.
_OF_TRAINING = {"MODEL_DIR": "none", "INITIAL_CHECKPOINT_PATH": None, "TEACHER_PATH": "none"}


@dataclasses.dataclass(frozen=True)
class Launch:
    """A command line whose gin configuration was checked before TensorFlow starts.

    Attributes:
      args: the parsed flags other than gin's; `args.gin_file` without the config.gin of runs.
      bindings: what is taken from runs or set for TPU, and `NAME=value` for each `--gin.NAME`.
      given: the values set by gin files and bindings, from `config.precheck`.
      devices: number of devices in the mesh.
      lines: what is taken from runs, see `remembered`, and set for TPU, to be printed.
      trains: whether the command trains.
      cluster: the hosts of the run; None if this process is alone.
    """

    args: argparse.Namespace
    bindings: list[str]
    given: config.Values
    devices: int
    lines: list[str]
    trains: bool
    cluster: Cluster | None = None

    def start(self, devices: int | None = None, shows_lowered: bool = False) -> None:
        """Prints what is taken from runs, starts TensorFlow and loads gin.

        Args:
          devices: number of CPU devices to start; None starts those of the mesh.
          shows_lowered: see `runtime.start`.

        Raises:
          UserError: there are too few devices, or an error that only gin itself or a remote
            checkpoint can reveal.
        """
        runtime.tell(*self.lines)
        device_type, is_run = "CPU", devices is None
        if is_run:
            devices, device_type = self.devices, self.given.get("DEVICE_TYPE", "CPU")
            runtime.check_devices(devices, device_type)
        _meet(self.cluster, self.given)
        with importing("starting TensorFlow"):
            runtime.start(devices, device_type, shows_lowered)
            config.load(self.args.gin_file, self.bindings)
        runtime.tell(*(accelerators.unused(device_type) if is_run else ()))
        # Reading it as a macro records it in the operative config, which needs it to run again.
        agreement.begin(Hosts().timeout)
        config.macro("DEVICE_TYPE", "CPU", annotation=Literal[runtime.DEVICE_TYPES])
        checks.check_checkpoints(self.given, remote=True, trains=self.trains)
        runtime.tell(*self._changes())

    def _changes(self) -> list[str]:
        """Lines on what a training that is resumed changes of its settings."""
        if not self.trains or not is_resumed(self.given):
            return []
        return changes(self.args.gin_file, self.bindings, self.given["train.model_dir"])


def check(
    command: str,
    description: str,
    argv: Sequence[str],
    needs: Sequence[str] = DATA,
    run_file: str = "plan.gin",
    flags: Mapping[str, Mapping] = {},
) -> Launch:
    """Parses flags and gin, and checks everything that needs no TensorFlow.

    Args:
      command: the name of the subcommand.
      description: shown by --help.
      argv: the arguments after the subcommand.
      needs: settings that the gin files must give.
      run_file: a file of gin/runs that gives them, for --help and errors.
      flags: name -> arguments of argparse, for the subcommand's own flags.

    Raises:
      UserError: a flag or setting is invalid or inconsistent with another.
    """
    bindings, rest = split_gin_args(argv)
    parser = Parser(
        prog=f"switch-tf {command}",
        description=description,
        epilog=f"example:\n  {_example(command, run_file)}",
    )
    for name, options in flags.items():
        parser.add_argument(f"--{name}", **options)
    add_gin_flags(parser)
    args = parser.parse_args(rest)
    if not args.gin_file:
        raise UserError(f"--gin_file is missing; see switch-tf {command} --help")
    trains = command == "train"
    cluster = settle(args.hosts, args.host) if "hosts" in args else None
    if command == "eval":
        checks.check_no_model_dir(args.gin_file, bindings)
    hosts = len(cluster.addresses) if cluster else 1
    bindings, lines = _complete(args, bindings, trains, cluster, hosts)
    if not trains:
        there = gin_files.read(args.gin_file, bindings).macros
        bindings += [f"{name}={value!r}" for name, value in _OF_TRAINING.items() if name in there]
    if trains:
        checks.check_commands(args.gin_file)
    # Checked first, or the error would be about a macro that the missing file sets.
    checks.check_files(args.gin_file, bindings, needs, run_file)
    given = config.precheck(args.gin_file, bindings)
    checks.check_spans(given)
    devices = checks.check_mesh(given, starts=command in ("train", "eval"), hosts=hosts)
    checks.check_paths(given, trains)
    if trains:
        checks.check_order(given)
        checks.check_optimizer(given)
        checks.check_periods(given)
    checks.check_checkpoints(given, remote=False, trains=trains)
    return Launch(args, bindings, given, devices, lines, trains, cluster)


def _complete(
    args: argparse.Namespace, bindings: list[str], trains: bool, cluster: Cluster | None, hosts: int
) -> tuple[list[str], list[str]]:
    """The bindings with what runs and the type of device give, and lines on that.

    `args.gin_file` is then without the config.gin of runs.
    """
    mesh = mesh_of_slice(args.gin_file, bindings, hosts)
    bindings = [*mesh, *bindings]
    remembered = remember(args.gin_file, bindings, trains, functools.partial(_start, cluster))
    args.gin_file, bindings = remembered.files, [*remembered.statements, *bindings]
    dtype = dtype_of_device(args.gin_file, bindings)
    lines = [*remembered.lines, *(f"{one.where}: {one}" for one in (*mesh, *dtype))]
    return [*dtype, *bindings], lines


def _example(command: str, run_file: str) -> str:
    model = "" if command == "eval" else "--gin_file=models/switch_tiny.gin "
    own = {"train": "MODEL_DIR", "eval": "CHECKPOINT_PATH"}.get(command)
    flag = f" --gin.{own}=\"'/tmp/model'\"" if own else ""
    files = f"{model}--gin_file=layouts/expert_data.gin --gin_file=runs/{run_file}"
    return f"switch-tf {command} {files}{flag}"


def _start(cluster: Cluster | None, given: config.Values) -> None:
    """Starts TensorFlow before the checks are done, which then read a remote checkpoint."""
    devices, device_type = checks.check_mesh(given), given.get("DEVICE_TYPE", "CPU")
    runtime.check_devices(devices, device_type)
    _meet(cluster, given)
    with importing("starting TensorFlow"):
        runtime.start(devices, device_type)


def _meet(cluster: Cluster | None, given: config.Values) -> None:
    """Waits for the other hosts, if there are any, unless TensorFlow has started with them."""
    if cluster is not None and not runtime.is_started():
        said = {name: repr(value) for name, value in given.items()} | {"version": __version__}
        with telling("waiting for the other hosts", at_once=False):
            meet(cluster, said, given.get("Hosts.timeout", TIMEOUT))
