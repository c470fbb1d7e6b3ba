"""Checkpoints: model, optimizer and data position, whole or absent, restored onto any mesh.

A checkpoint is a folder `checkpoint_<step>`, written under another name and renamed last. Its
tensors are named by the variables' paths, and `tf.train.load_checkpoint` reads them whole.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Callable

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import tensor_files
from switch_tf.errors import UserError

_PREFIX = "state"
_DATA_PREFIX = "data"
_FOLDER = re.compile(r"checkpoint_(\d+)")
# What reading a damaged file raises; IndexError for one that ends too early.
_DAMAGED = (tf.errors.OpError, ValueError, OSError, IndexError)
# A disk that does not answer, or memory that does not suffice: the file may be whole.
_PASSING = (
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.PermissionDeniedError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    PermissionError,
    TimeoutError,
)
_OTHER_DATA = "Failed to restore dataset iterator"
# The optimizer's own step, which its learning rate follows.
_OPTIMIZER_STEP = "optimizer/step"
_OTHER_RUN = "another MODEL_DIR and this one as INITIAL_CHECKPOINT_PATH"


def _model_variables(model) -> dict[str, tf.Variable]:
    return {variable.path: variable.value for variable in model.trainable_variables}


def _slots(optimizer) -> dict[str, tf.Variable]:
    return {f"optimizer/{name}": slot for name, slot in optimizer.slots.items()}


def steps(model_dir: str) -> list[int]:
    """Steps of the whole checkpoints in `model_dir`, ascending."""
    if not os.path.isdir(model_dir):
        return []
    found = (_FOLDER.fullmatch(name) for name in os.listdir(model_dir))
    return sorted(int(match.group(1)) for match in found if match)


def find(path: str) -> str:
    """The checkpoint at `path`: that folder itself, or the newest in a MODEL_DIR.

    Raises:
      UserError: there is none.
    """
    path = os.path.expanduser(path)
    if os.path.exists(os.path.join(path, _PREFIX + ".index")):
        return path
    there = steps(path)
    if not there:
        raise UserError(
            f"no checkpoint at '{path}': give a MODEL_DIR that holds checkpoint_<step>, or such a "
            "folder"
        )
    return os.path.join(path, f"checkpoint_{there[-1]}")


def shapes(path: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the model's weights in the checkpoint folder `path`."""
    every = _all_shapes(path).items()
    return {name: tuple(shape) for name, shape in every if not name.startswith("optimizer/")}


def _all_shapes(path: str) -> dict[str, list[int]]:
    return tf.train.load_checkpoint(os.path.join(path, _PREFIX)).get_variable_to_shape_map()


def check(path: str, model) -> None:
    """Checks that the checkpoint `path` is of this model.

    Raises:
      UserError: naming the first weight that differs, both shapes and the mend.
    """
    saved = shapes(path)
    for name, variable in _model_variables(model).items():
        shape = tuple(variable.shape)
        if name not in saved:
            raise UserError(
                f"checkpoint '{path}' has no {name}: it is of another model; take the gin/models "
                "file that it was trained with, or another MODEL_DIR"
            )
        if saved[name] != shape:
            raise UserError(
                f"checkpoint '{path}': {name} has shape {saved[name]}, the model's is {shape}: "
                "take the gin/models file that it was trained with, or another MODEL_DIR"
            )
    extra = sorted(set(saved) - set(_model_variables(model)))
    if extra:
        raise UserError(
            f"checkpoint '{path}' has {extra[0]}, the model has not: take the gin/models file that "
            "it was trained with, or another MODEL_DIR"
        )


def _check_slots(path: str, optimizer, mend: str) -> None:
    """Checks that the checkpoint has the optimizer's slots, as they are, and its step."""
    saved = _all_shapes(path)
    wanted = {name: tuple(slot.shape) for name, slot in _slots(optimizer).items()}
    for name, shape in sorted((wanted | {_OPTIMIZER_STEP: ()}).items()):
        if tuple(saved.get(name, (-1,))) != shape:
            raise UserError(
                f"checkpoint '{path}' has no {name} of shape {shape}: take the model and the "
                f"optimizer's settings that it was trained with, or {mend}"
            )


def _read_optimizer_step(path: str) -> int:
    with mesh_lib.host():
        reader = tf.train.load_checkpoint(os.path.join(path, _PREFIX))
        return int(reader.get_tensor(_OPTIMIZER_STEP))


@dataclasses.dataclass(frozen=True)
class Restored:
    """What came from an initial checkpoint.

    Attributes:
      path: of the checkpoint.
      variables: names of the weights restored.
      fresh: names of the weights that it lacks, which keep their initial values.
      skipped: names of its weights that the model lacks.
      slots: number of optimizer slots.
      optimizer_step: the step that the optimizer goes on from; None: its slots are fresh, and it
        starts from 0.
    """

    path: str
    variables: tuple[str, ...]
    fresh: tuple[str, ...]
    skipped: tuple[str, ...]
    slots: int
    optimizer_step: int | None = None

    def __str__(self):
        def names(listed):
            shown = ", ".join([*listed[:3], *(["..."] if len(listed) > 3 else [])])
            return f"{len(listed)}" + (f" ({shown})" if listed else "")

        return (
            f"initial checkpoint {self.path}: {len(self.variables)} variables restored, "
            f"{names(self.fresh)} fresh, {names(self.skipped)} skipped; {self.slots} optimizer "
            + ("slots fresh" if self.optimizer_step is None else "slots restored, and their step")
        )


def restore_initial(path: str, model, optimizer, restore_optimizer: bool = False) -> Restored:
    """Takes the model's weights from another run, and its optimizer's slots and step.

    Args:
      path: a MODEL_DIR, whose newest checkpoint is taken, or a checkpoint folder.
      model: built.
      optimizer: built.
      restore_optimizer: whether the optimizer goes on, too; else its slots stay as they are.

    Raises:
      UserError: no checkpoint there, damaged, or a weight or a slot of another shape.
    """
    path = find(path)
    ours, saved = _model_variables(model), _read(path, lambda: shapes(path))
    for name, variable in ours.items():
        if saved.get(name, tuple(variable.shape)) != tuple(variable.shape):
            raise UserError(
                f"INITIAL_CHECKPOINT_PATH '{path}': {name} has shape {saved[name]}, the model's is "
                f"{tuple(variable.shape)}: take the gin/models file that it was trained with"
            )
    common = {name: variable for name, variable in ours.items() if name in saved}
    if not common:
        raise UserError(f"INITIAL_CHECKPOINT_PATH '{path}' shares no weight with the model")
    optimizer_step, slots = None, {}
    if restore_optimizer:
        mend = "RESTORE_OPTIMIZER=False"
        _read(path, lambda: _check_slots(path, optimizer, mend))
        optimizer_step, slots = _read(path, lambda: _read_optimizer_step(path)), _slots(optimizer)
    _read(path, lambda: tensor_files.read(os.path.join(path, _PREFIX), common | slots))
    return Restored(
        path,
        tuple(common),
        tuple(name for name in ours if name not in saved),
        tuple(sorted(set(saved) - set(ours))),
        len(optimizer.slots),
        optimizer_step,
    )


def restore_model(path: str, model) -> None:
    """Takes all of the model's weights from the checkpoint folder `path`.

    Raises:
      UserError: damaged, or of another model.
    """
    _read(path, lambda: check(path, model))
    variables = _model_variables(model)
    _read(path, lambda: tensor_files.read(os.path.join(path, _PREFIX), variables))


def _read(path: str, reader: Callable):
    try:
        return reader()
    except _DAMAGED as error:
        raise UserError(f"checkpoint '{path}' cannot be read: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """The first line of an error, without TensorFlow's {{function_node ...}}."""
    lines = re.sub(r"\{\{.*?\}\} ?", "", str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


class Checkpoints:
    """The checkpoints of one run.

    Args:
      model_dir: where they lie; made if need be, leftovers of an interrupted save are removed.
      keep: how many of the newest are kept.
      model, optimizer: built.
      iterator: of the training data; its position is saved.
      config: returns the operative gin config, saved beside them as `config.gin`.

    Attributes:
      optimizer_offset: what the optimizer's step is ahead of the run's; 0, or, where the run goes
        on with the optimizer of its initial checkpoint, that one's step.

    Raises:
      UserError: the folder cannot be made or written.
    """

    def __init__(self, model_dir, keep: int, model, optimizer, iterator, config: Callable[[], str]):
        self._model_dir = model_dir
        self._keep = keep
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._variables = _model_variables(model) | _slots(optimizer)
        self._data = tf.train.Checkpoint(iterator=iterator)
        self._is_cached = isinstance(iterator, tf.train.experimental.PythonState)
        self.optimizer_offset = 0
        with _disk_errors(model_dir):
            os.makedirs(model_dir, exist_ok=True)
            for name in os.listdir(model_dir):
                if name.startswith("checkpoint_") and name.endswith(".partial"):
                    shutil.rmtree(os.path.join(model_dir, name))

    def _tensors(self, step: int) -> dict[str, tf.Variable]:
        with mesh_lib.host():
            optimizer_step = tf.Variable(step + self.optimizer_offset, dtype=tf.int64)
        return self._variables | {_OPTIMIZER_STEP: optimizer_step}

    @property
    def contents(self) -> str:
        """What a checkpoint holds, in words."""
        slots = sum(name.startswith("optimizer/") for name in self._variables)
        return f"{len(self._variables) - slots} variables, {slots} optimizer slots, data position"

    def save(self, step: int) -> None:
        """Writes checkpoint_<step>; one that is there already is left alone.

        Raises:
          UserError: the disk refuses; older checkpoints stay.
        """
        target = os.path.join(self._model_dir, f"checkpoint_{step}")
        if os.path.exists(target):
            return
        partial = target + ".partial"
        with _disk_errors(self._model_dir):
            tensor_files.write(os.path.join(partial, _PREFIX), self._tensors(step))
            with mesh_lib.host():
                self._data.write(os.path.join(partial, _DATA_PREFIX))
            config = os.path.join(self._model_dir, "config.gin")
            with open(config + ".new", "w") as file:
                file.write(self._config())
            os.replace(config + ".new", config)
            os.rename(partial, target)
            for old in steps(self._model_dir)[: -self._keep]:
                shutil.rmtree(os.path.join(self._model_dir, f"checkpoint_{old}"))

    def restore_latest(self) -> int | None:
        """Restores the newest checkpoint that can be read; returns its step, None if there is none.

        Where an older one can be, damaged ones are set aside as checkpoint_<step>.damaged, aloud.
        `optimizer_offset` is then the run's.

        Raises:
          UserError: the newest is of another model, optimizer or data, or all there are damaged;
            then nothing is touched.
        """
        there, damaged = steps(self._model_dir), {}
        for step in reversed(there):
            path = os.path.join(self._model_dir, f"checkpoint_{step}")
            try:
                check(path, self._model)
                _check_slots(path, self._optimizer, _OTHER_RUN)
                offset = _read_optimizer_step(path) - step
                tensor_files.read(os.path.join(path, _PREFIX), self._variables)
                self._check_order(path)
                with mesh_lib.host():
                    self._data.read(os.path.join(path, _DATA_PREFIX)).assert_consumed()
            except _PASSING:
                raise
            except (*_DAMAGED, AssertionError) as error:
                if _OTHER_DATA in str(error):
                    raise UserError(
                        f"checkpoint '{path}' is of a run over other data: take its "
                        f"MIXTURE_OR_TASK_NAME, TASK_FEATURE_LENGTHS and PACK, or {_OTHER_RUN}"
                    ) from error
                damaged[path] = _line(error)
                continue
            for path, why in damaged.items():
                print(f"{path} cannot be read and is set aside as {path}.damaged: {why}")
                shutil.rmtree(path + ".damaged", ignore_errors=True)
                os.rename(path, path + ".damaged")
            self.optimizer_offset = offset
            return step
        if there:
            path, why = next(iter(damaged.items()))
            raise UserError(
                f"none of the checkpoints in '{self._model_dir}' can be read ({path}: {why}): mend "
                "or remove them, or give another MODEL_DIR"
            )
        return None

    def _check_order(self, path: str) -> None:
        """Checks that the data position is of the kind that this run's data have."""
        saved = tf.train.load_checkpoint(os.path.join(path, _DATA_PREFIX))
        was_cached = any("py_state" in name for name in saved.get_variable_to_shape_map())
        if was_cached != self._is_cached:
            raise UserError(
                f"checkpoint '{path}' is of a run with USE_CACHED_TASKS={was_cached}, whose order "
                f"is another: set it so, or give {_OTHER_RUN}"
            )


class _disk_errors:
    """Turns what a full or forbidden disk raises into a UserError."""

    def __init__(self, folder):
        self._folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if kind is not None and issubclass(kind, (OSError, tf.errors.OpError)):
            raise UserError(
                f"cannot write to MODEL_DIR '{self._folder}': {_line(error)}"
            ) from error
