"""Shared by the commands that gin configures: flags, and checks before TensorFlow starts."""

import argparse
import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal

from switch_tf import __version__, config, configurables, gin_files, rules, runtime, storage
from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints.lock import check_free
from switch_tf.checkpoints.model_dir import CONFIG, find_file
from switch_tf.commands.flags import Parser, add_gin_flags, split_gin_args
from switch_tf.commands.remembered import is_resumed, remember
from switch_tf.commands.resumed import changes
from switch_tf.data import spans
from switch_tf.data.batch_shape import check_batch, check_parts
from switch_tf.errors import UserError
from switch_tf.hosts import agreement
from switch_tf.hosts.cluster import Cluster, settle
from switch_tf.hosts.meeting import meet
from switch_tf.hosts.settings import TIMEOUT, Hosts
from switch_tf.stages import importing, telling
from switch_tf.tasks.vocabulary import vocabulary_path

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
      bindings: what is taken from runs, and `NAME=value` for each `--gin.NAME` flag.
      given: the values set by gin files and bindings, from `config.precheck`.
      devices: number of devices in the mesh.
      lines: what is taken from runs, to be printed; see `remembered`.
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
        device_type = "CPU"
        if devices is None:
            devices, device_type = self.devices, self.given.get("DEVICE_TYPE", "CPU")
            runtime.check_devices(devices, device_type)
        _meet(self.cluster, self.given)
        with importing("starting TensorFlow"):
            runtime.start(devices, device_type, shows_lowered)
            config.load(self.args.gin_file, self.bindings)
        # Reading it as a macro records it in the operative config, which needs it to run again.
        agreement.begin(Hosts().timeout)
        config.macro("DEVICE_TYPE", "CPU", annotation=Literal[runtime.DEVICE_TYPES])
        check_checkpoints(self.given, remote=True, trains=self.trains)
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
    remembered = remember(args.gin_file, bindings, trains, functools.partial(_start, cluster))
    args.gin_file, bindings = remembered.files, [*remembered.statements, *bindings]
    if not trains:
        there = gin_files.read(args.gin_file, bindings).macros
        bindings += [f"{name}={value!r}" for name, value in _OF_TRAINING.items() if name in there]
    # Checked first, or the error would be about a macro that the missing file sets.
    check_files(args.gin_file, bindings, needs, run_file)
    given = config.precheck(args.gin_file, bindings)
    check_spans(given)
    devices = check_mesh(given)
    check_paths(given, trains)
    if trains:
        check_optimizer(given)
    check_checkpoints(given, remote=False, trains=trains)
    return Launch(args, bindings, given, devices, remembered.lines, trains, cluster)


def _example(command: str, run_file: str) -> str:
    model = "" if command == "eval" else "--gin_file=models/switch_tiny.gin "
    own = {"train": "MODEL_DIR", "eval": "CHECKPOINT_PATH"}.get(command)
    flag = f" --gin.{own}=\"'/tmp/model'\"" if own else ""
    files = f"{model}--gin_file=layouts/expert_data.gin --gin_file=runs/{run_file}"
    return f"switch-tf {command} {files}{flag}"


def _start(cluster: Cluster | None, given: config.Values) -> None:
    """Starts TensorFlow before the checks are done, which then read a remote checkpoint."""
    devices, device_type = check_mesh(given), given.get("DEVICE_TYPE", "CPU")
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


def check_files(
    files: Sequence[str], bindings: Sequence[str], needs: Sequence[str], run_file: str
) -> None:
    """Checks that the gin files include one for the run and one for its model.

    Args:
      files, bindings: as for `config.precheck`.
      needs, run_file: as for `check`.

    Raises:
      UserError: naming the missing setting, and a file that has it; if the model is missing, but a
        checkpoint that would give it is required, the checkpoint's.
    """
    bound, referred = config.names(files, bindings)
    for name in needs:
        if name not in bound:
            raise UserError(
                f"no --gin_file sets {name}: add --gin_file=runs/{run_file}, or another of gin/runs"
            )
    model = configurables.MODEL
    if model in referred and f"{model}.d_model" not in bound:
        lacking = config.lacking(files, bindings)
        for parameter, _ in configurables.marked(rules.Folder):
            # Its run would give the model, too.
            if parameter in lacking:
                name, where = lacking[parameter]
                raise UserError(f"{where}: {name} is required: pass --gin.{name}=\"'VALUE'\"")
        raise UserError(
            f"no --gin_file sets {model}.d_model: add --gin_file=models/switch_tiny.gin, or "
            "another of gin/models"
        )


def check_paths(given: config.Values, trains: bool) -> None:
    """Checks that local folders and the vocabulary, which a run will read, exist.

    Args:
      given: the result of `config.precheck`.
      trains: whether the command trains.

    Raises:
      UserError: one does not exist; the message names the setting and the path.
    """
    checkpoints = dict(configurables.marked(rules.Checkpoint))
    for name, folder in configurables.marked(rules.Folder):
        path = given.get(name)
        if path and not storage.is_remote(path) and _is_read(checkpoints.get(name), given, trains):
            folder.check(given.called.get(name, name), path)
    for name, checkpoint in checkpoints.items():
        path = given.get(name)
        if checkpoint.use == "resume" and path and trains:
            if os.path.isfile(os.path.expanduser(path)):
                raise UserError(f"{given.called[name]}='{path}' is a file: give a folder")
            check_free(path)
    path = given.get(vocabulary_path.SETTING)
    if path is not None:
        vocabulary_path.check(path)


def _is_read(checkpoint: rules.Checkpoint | None, given: config.Values, trains: bool) -> bool:
    """Whether a run reads a checkpoint: not if it starts from it, but is being resumed."""
    if checkpoint is None:
        return True
    if not trains:
        return checkpoint.use == "restore"
    return checkpoint.use != "start" or not is_resumed(given)


def check_optimizer(given: dict) -> None:
    """Checks that RESTORE_OPTIMIZER comes with an initial checkpoint to restore from.

    Args:
      given: the result of `config.precheck`.

    Raises:
      UserError: there is no initial checkpoint.
    """
    if given.get("train.restore_optimizer") and not given.get("train.initial_checkpoint_path"):
        raise UserError(
            "RESTORE_OPTIMIZER=True needs a checkpoint to restore the optimizer from: set "
            "INITIAL_CHECKPOINT_PATH, or leave RESTORE_OPTIMIZER out"
        )


def check_spans(given: Mapping) -> None:
    """Checks the settings of span corruption, which T5 does not annotate.

    Args:
      given: the result of `config.precheck`.

    Raises:
      UserError: a setting is out of range; the message names it.
    """
    spans.Spans(*(given.get(name, _SPANS[name]) for name in _MASK))


def check_checkpoints(given: dict, remote: bool, trains: bool) -> None:
    """Checks sizes, and for a resumed run its data, against the checkpoints' config.gin.

    Settings missing from the file are checked when the checkpoint is restored.

    Args:
      given: the result of `config.precheck`.
      remote: whether to check remote paths, which needs TensorFlow, or local ones.
      trains: whether the command trains.

    Raises:
      UserError: a setting differs, and the message names it, both values and the fix; or a remote
        path cannot be reached.
    """
    sizes = [name for name, axis in configurables.marked(rules.Axis) if axis.name != "batch"]
    for parameter, checkpoint in configurables.marked(rules.Checkpoint):
        path = given.get(parameter)
        if not path or storage.is_remote(path) != remote or not _is_read(checkpoint, given, trains):
            continue
        if checkpoint.use == "teach":
            continue
        setting = given.called[parameter]
        with storage.told(f"{setting}='{path}' cannot be read"):
            saved = _saved(path)
        for name in (*sizes, *(_of_order() if checkpoint.use == "resume" else ())):
            value = given.get(name, _SPANS.get(name))
            # A deeper or shallower stack restores the layers that both have.
            may_differ = checkpoint.use == "start" and name.endswith("num_layers")
            if value is not None and value != saved.get(name, value) and not may_differ:
                what, called = "a model" if name in sizes else "a run", given.called.get(name, name)
                raise UserError(
                    f"{setting}='{path}' holds {what} with {called}={saved[name]!r}, but this run "
                    f"has {value!r}: set it to {saved[name]!r}, or give another {setting}"
                )


# Those of span corruption that determine the order and the noise of a run's batches.
_SPANS = {
    "span_corruption.noise_density": spans.NOISE_DENSITY,
    "span_corruption.mean_noise_span_length": spans.MEAN_SPAN_LENGTH,
    "random_spans_noise_mask.random_roll": False,
    "span_corruption.random_chunk": False,
}
# Those that say how text is masked, in the order of `spans.Spans`.
_MASK = list(_SPANS)[:3]


def _of_order() -> list[str]:
    declared = configurables.project_source().configurables
    data = next(c for c in declared if c.name == "TaskData")
    # Which module registers the task makes no difference to it.
    return [*(f"TaskData.{name}" for name in data.parameters if name != "module"), *_SPANS]


def _saved(path: str) -> dict:
    """The settings in the config.gin of a MODEL_DIR or of the MODEL_DIR of a checkpoint."""
    file = find_file(path, CONFIG)
    return gin_files.read_text(storage.read_text(file), file).literals() if file else {}


def check_mesh(given: config.Values) -> int:
    """Checks mesh, layout rules, batch and widths against each other, without TensorFlow.

    Args:
      given: the result of `config.precheck`.

    Returns:
      The number of devices.

    Raises:
      UserError: they do not fit; the message names the setting and the fix.
    """
    shape = mesh_lib.parse_mesh_shape(given.get("ModelSetup.mesh_shape", "batch:1"))
    layout = given.get("ModelSetup.layout_rules", "batch:batch")
    layout = mesh_lib.parse_layout_rules(layout, shape)
    for dimension, size in shape.items():
        if size > 1 and dimension not in layout.values():
            raise UserError(
                f"MESH_SHAPE: nothing is sharded over '{dimension}', so its {size} devices would "
                f"all do the same work: leave it out, or add a rule such as d_ff:{dimension} to "
                "LAYOUT_RULES"
            )
    for name, axis in configurables.marked(rules.Axis):
        if given.get(name) is not None:
            sizes = {axis.name: (given[name], given.called[name])}
            mesh_lib.check_divides(layout, shape, sizes)
    lengths = given.get("TaskData.task_feature_lengths")
    if lengths and given.get("TaskData.batch_size"):
        called = given.called["TaskData.batch_size"]
        check_batch(given["TaskData.batch_size"], lengths, layout, shape, called)
        ways = shape.get(layout.get("batch", ""), 1)
        check_parts(given["TaskData.batch_size"], given.get("TrainStep.microbatches", 1), ways)
    return math.prod(shape.values())
