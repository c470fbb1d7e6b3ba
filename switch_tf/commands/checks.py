"""Checks of a command's settings against each other, and of its paths, before TensorFlow starts."""

import math
import os
from collections.abc import Mapping, Sequence

from switch_tf import config, configurables, gin_files, rules, runtime, storage
from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import model_dir
from switch_tf.checkpoints.lock import check_free
from switch_tf.checkpoints.model_dir import CONFIG, find_file
from switch_tf.commands.remembered import is_resumed
from switch_tf.data import spans
from switch_tf.data.batch_shape import check_batch, check_parts, check_shares
from switch_tf.errors import UserError
from switch_tf.tasks.vocabulary import vocabulary_path

# What a command's files set -> the command.
_COMMANDS = {"train": "train", "evaluate": "eval"}


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
            owners = {parameter.partition(".")[0] for parameter in bound}
            others = [_COMMANDS[o] for o in owners & _COMMANDS.keys() - {name.partition(".")[0]}]
            hint = f"; those given are for switch-tf {others[0]}" if others else ""
            raise UserError(
                f"no --gin_file sets {name}: add --gin_file=runs/{run_file}, or another of "
                f"gin/runs{hint}"
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


def check_commands(files: Sequence[str]) -> None:
    """Checks that no gin file of a training is one of an evaluation.

    Raises:
      UserError: one is.
    """
    for file in files:
        if any(name == "evaluate" for _, name, _ in gin_files.read([file], []).bindings):
            raise UserError(f"--gin_file={file} is for switch-tf eval: leave it out")


def check_no_model_dir(files: Sequence[str], bindings: Sequence[str]) -> None:
    """Checks that an evaluation is not given its run as MODEL_DIR alone, as a training is.

    Raises:
      UserError: it is.
    """
    macros = gin_files.read(files, bindings).macros
    run, path = macros.get("MODEL_DIR"), macros.get("CHECKPOINT_PATH")
    if run and run.value != gin_files.REQUIRED and path and path.value == gin_files.REQUIRED:
        raise UserError(
            f"{run.where}: MODEL_DIR is where switch-tf train writes: pass the run to evaluate as "
            f'--gin.CHECKPOINT_PATH="{run.value!r}"'
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
            setting = given.called.get(name, name)
            found = folder.check(setting, path)
            if name in checkpoints:
                model_dir.find(found, setting)
    for name, checkpoint in checkpoints.items():
        path = given.get(name)
        if checkpoint.use == "resume" and path and trains:
            _check_model_dir(given.called[name], path)
            check_free(path)
    path = given.get(vocabulary_path.SETTING)
    if path is not None:
        vocabulary_path.check(path)


def _check_model_dir(setting: str, path: str) -> None:
    """Checks that a run could write to a local MODEL_DIR, of which nothing need be there yet."""
    if storage.is_remote(path):
        return
    folder = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(folder):
        raise UserError(f"{setting}='{path}' is a file: give a folder")
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    try:
        storage.try_to_write(os.path.join(folder, "trial"))
    except OSError as error:
        raise UserError(
            f"{setting}='{path}' cannot be written to: {folder}: {storage.reason(error)}: give "
            "another folder"
        ) from error


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


def check_periods(given: config.Values) -> None:
    """Checks that there will be checkpoints of the period whose checkpoints are kept.

    Args:
      given: the result of `config.precheck`.

    Raises:
      UserError: no checkpoint is made at some of its multiples.
    """
    kept, made = given.get("train.keep_period"), given.get("train.checkpoint_period")
    if kept and made and kept % made:
        raise UserError(
            f"{given.called['train.keep_period']}={kept} is no multiple of "
            f"{given.called['train.checkpoint_period']}={made}: checkpoints are made at multiples "
            "of the latter"
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


def check_order(given: config.Values) -> None:
    """Checks that the batches to train on can be made of as many shares as are asked for.

    Args:
      given: the result of `config.precheck`.

    Raises:
      UserError: they cannot.
    """
    if batch_size := given.get("TaskData.batch_size"):
        is_cached = given.get("TaskData.use_cached", False)
        check_shares(batch_size, given.get("TaskData.shares", 1), is_cached)


def check_mesh(given: config.Values, starts: bool = False, hosts: int = 1) -> int:
    """Checks mesh, layout rules, batch and widths against each other, without TensorFlow.

    Args:
      given: the result of `config.precheck`.
      starts: whether the command starts the devices, which this machine must then have.
      hosts: number of processes that share them.

    Returns:
      The number of devices.

    Raises:
      UserError: they do not fit; the message names the setting and the fix.
    """
    text = given.get("ModelSetup.mesh_shape")
    shape = mesh_lib.parse_mesh_shape(text or "batch:1")
    devices = math.prod(shape.values())
    if devices % hosts:
        mend = f"MESH_SHAPE='{text}' has {devices} devices: make it a multiple of them"
        if text is None:
            mend = "add --gin_file=layouts/expert_data.gin, or another of gin/layouts"
        raise UserError(f"{hosts} hosts cannot share the devices of the mesh: {mend}")
    if starts:
        # Before what does not divide by so many devices.
        runtime.check_devices(devices, given.get("DEVICE_TYPE", "CPU"))
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
    return devices
