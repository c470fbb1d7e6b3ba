"""Checkpoints of a run, each whole or absent, which any mesh can restore.

They hold the model, the optimizer and the position in the data. Tensors are named by the variables'
paths, and `tf.train.load_checkpoint` reads them unsharded.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Mapping

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf import runtime, storage
from switch_tf.checkpoints import contents, tensor_files
from switch_tf.checkpoints.model_dir import (
    ModelDir,
    notes_path,
    state_prefix,
    write_as_chief,
)
from switch_tf.checkpoints.pending import Pending
from switch_tf.checkpoints.position import Position
from switch_tf.checkpoints.restore import DAMAGED, PASSING
from switch_tf.data import stamps
from switch_tf.data.ordered import OTHER_RUN
from switch_tf.errors import UserError
from switch_tf.hosts import agreement


class Checkpoints:
    """The checkpoints of one run.

    Args:
      model_dir: their folder, created if needed; remains of an interrupted save are removed.
      keep: how many of the newest checkpoints are kept. Each takes the disk space of weights and
        slots; keep at least 2, so that a damaged newest one does not cost the run.
      model, optimizer: the built model and optimizer.
      iterator: the iterator of the training data, whose position is saved.
      config: returns the operative gin config, saved next to the checkpoints as `config.gin`.
      keep_period: those of its multiples are kept, too; None for none.
      files: the files of the data; see `stamps.stamps`.

    Attributes:
      path: their folder.
      protected: steps whose checkpoints are kept beyond the newest.
      notes: what else a run keeps with each checkpoint, as JSON can hold it; a restored one's.
      optimizer_offset: the optimizer's step minus the run's: 0, or the optimizer step of
        the initial checkpoint if the run restored its optimizer from there.

    Raises:
      UserError: the folder cannot be created or written to.
    """

    def __init__(
        self,
        model_dir: str,
        keep: int,
        model,
        optimizer,
        iterator,
        config: Callable[[], str],
        keep_period: int | None = None,
        files: Mapping[str, list] = {},
    ):
        self._dir = ModelDir(model_dir)
        self.path = self._dir.path
        self._keep = keep
        self._keep_period = keep_period
        self._files = files
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._variables = contents.weights(model) | contents.slots(optimizer)
        self._position = Position(iterator)
        self.protected: Collection[int] = ()
        self.notes: dict = {}
        self.optimizer_offset = 0
        self._pending: Pending | None = None
        with self._disk_errors():
            if runtime.is_chief():
                storage.make_folder(self._dir.path)
                self._dir.remove_interrupted()
            agreement.barrier("MODEL_DIR is made")

    @contextlib.contextmanager
    def _disk_errors(self):
        # The inner one first: that a host is lost is no error of the disk.
        with storage.told(f"cannot write to MODEL_DIR '{self._dir.path}'"), agreement.losses_told():
            yield

    def _tensors(self, step: int) -> dict[str, tf.Variable]:
        with mesh_lib.host():
            optimizer_step = tf.Variable(step + self.optimizer_offset, dtype=tf.int64)
        return self._variables | {contents.OPTIMIZER_STEP: optimizer_step}

    @property
    def contents(self) -> str:
        """A description of what a checkpoint holds."""
        slots = sum(name.startswith("optimizer/") for name in self._variables)
        return f"{len(self._variables) - slots} variables, {slots} optimizer slots, data position"

    def save(self, step: int) -> None:
        """Writes checkpoint_<step>, unless it exists, and removes what is not to be kept.

        Raises:
          UserError: writing fails; older checkpoints are kept.
        """
        self.begin(step)
        self.finish()

    def begin(self, step: int) -> None:
        """Like `save`, but the tensors are written while the run goes on, until `finish`.

        Until then the checkpoint is absent, and what is written takes memory: this host's part of
        weights and slots.

        Raises:
          UserError: writing fails, also that of the checkpoint before; older ones are kept.
        """
        self.finish()
        with self._disk_errors():
            if step not in self._steps():
                tensors = tensor_files.own(self._tensors(step))
                self._pending = Pending(self._dir.checkpoint(step), tensors, self._write_others)

    def _write_others(self, folder: str) -> None:
        """Writes what a checkpoint holds beside its tensors."""
        self._position.write(folder)
        write_as_chief(self._dir.config, self._config())
        if notes := self.notes | ({"files": self._files} if self._files else {}):
            write_as_chief(notes_path(folder), notes)

    def finish(self, waits: bool = True) -> None:
        """Ends the save that `begin` began, if there is one.

        Args:
          waits: whether to wait for it; if not, all hosts call this after each step, and each
            batch of an evaluation, and it does nothing before all have written their parts.

        Raises:
          UserError: see `begin`.
        """
        if self._pending is None or not (waits or self._pending.is_written()):
            return
        pending, self._pending = self._pending, None
        with self._disk_errors():
            pending.finish()
        self.prune()

    def _steps(self) -> list[int]:
        """The steps of all whole checkpoints, as the chief sees them."""
        return json.loads(agreement.from_chief("checkpoints", json.dumps(self._dir.steps())))

    def prune(self) -> None:
        """Removes the checkpoints that are not among the newest, nor protected, nor periodic.

        Raises:
          UserError: the folder cannot be written to.
        """
        if not runtime.is_chief():
            return
        with self._disk_errors():
            for old in self._dir.steps()[: -self._keep]:
                is_periodic = self._keep_period is not None and old % self._keep_period == 0
                if old not in self.protected and not is_periodic:
                    storage.remove_folder(self._dir.checkpoint(old))

    def restore_latest(self) -> int | None:
        """Restores the newest readable checkpoint; returns its step, or None if there is none.

        Newer checkpoints that are damaged are renamed to checkpoint_<step>.damaged, with a message.
        Also sets `optimizer_offset`.

        Raises:
          UserError: the newest belongs to another model, optimizer or data, or all are damaged;
            none is then renamed.
        """
        there, damaged = self._steps(), {}
        for step in reversed(there):
            why = self._restore(step)
            if agreement.any_of("a checkpoint is damaged", why is not None):
                damaged[step] = why or "another host cannot read its part"
                continue
            self._set_aside(damaged)
            return step
        if there:
            step, why = next(iter(damaged.items()))
            raise UserError(
                f"none of the checkpoints in '{self._dir.path}' can be read "
                f"({self._dir.checkpoint(step)}: {why}): repair or remove them, or give another "
                "MODEL_DIR"
            )
        return None

    def go_back(self, step: int) -> int:
        """Restores the newest readable checkpoint up to a step, and removes those behind it.

        Returns:
          Its step.

        Raises:
          UserError: there is none.
        """
        self.finish()
        there = self._steps()
        for found in reversed([s for s in there if s <= step]):
            if agreement.any_of("a checkpoint is damaged", self._restore(found) is not None):
                continue
            with self._disk_errors():
                for later in there[there.index(found) + 1 :] if runtime.is_chief() else ():
                    storage.remove_folder(self._dir.checkpoint(later))
            agreement.barrier("later checkpoints are removed")
            return found
        raise UserError(
            f"no checkpoint of step {step:,} or before in {self._dir.path} to go back to: lower "
            "CHECKPOINT_PERIOD or BadSteps.back_steps, or keep more by train.keep_checkpoints"
        )

    def _restore(self, step: int) -> str | None:
        """Restores a checkpoint, and sets `optimizer_offset`; returns what is damaged, if anything.

        Raises:
          UserError: it belongs to another model, optimizer or data.
        """
        path = self._dir.checkpoint(step)
        try:
            contents.check_model(path, self._model)
            contents.check_optimizer(path, self._optimizer, OTHER_RUN, all_saved=True)
            offset = contents.saved_optimizer_step(path) - step
            notes = self._notes(path)
            tensor_files.read(state_prefix(path), self._variables)
            self._position.read(path)
        except (*DAMAGED, AssertionError) as error:
            if storage.is_passing(error, path):
                raise storage.failure(f"checkpoint '{path}' cannot be read", error) from error
            if isinstance(error, PASSING):
                raise
            return storage.first_line(error)
        self.optimizer_offset = offset
        self.notes = notes
        return None

    def _notes(self, path: str) -> dict:
        """What a checkpoint notes, whose files must be those of this run.

        Raises:
          UserError: they have changed, so that its position in the data means nothing.
        """
        file = notes_path(path)
        notes = json.loads(storage.read_text(file)) if storage.exists(file) else {}
        before = notes.pop("files", {})
        if before and (changed := stamps.first_change(before, self._files)):
            raise UserError(
                f"data have changed since checkpoint '{path}' was saved, so that its position in "
                f"them means nothing: {changed}: put the old ones back, or use "
                f"{OTHER_RUN}"
            )
        return notes

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Renames damaged checkpoints, and tells of it.

        Args:
          damaged: step -> why it cannot be read.
        """
        for step, why in damaged.items() if runtime.is_chief() else ():
            with self._disk_errors():
                aside = self._dir.set_aside(step)
            path = self._dir.checkpoint(step)
            print(f"{path} cannot be read and was renamed to {aside}: {why}")
        agreement.barrier("damaged checkpoints are renamed")
