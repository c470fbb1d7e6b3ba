"""A checkpoint that is written while the run goes on."""

import contextlib
import os
import threading
from collections.abc import Callable

from switch_tf.checkpoints import tensor_files
from switch_tf.checkpoints.model_dir import state_prefix, writing
from switch_tf.hosts import agreement

# Steps between two looks of several hosts whether all have written their parts.
_LOOK_EVERY = 10


class Pending:
    """Writes the tensors of a checkpoint in a thread, which gives way to the run's own.

    Where this process is alone, the checkpoint is whole when that thread ends; several hosts have
    to agree that all have written their parts.

    Args:
      folder: the checkpoint's folder, which is there at the latest when `finish` returns.
      tensors: this host's part of them.
      first: writes the other files to the folder that it is given, at once.
    """

    def __init__(self, folder: str, tensors: tensor_files.Tensors, first: Callable[[str], None]):
        self._error: BaseException | None = None
        self._steps = 0
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(writing(folder))
            self._prefix = state_prefix(place)
            first(place)
            self._open = stack.pop_all()
        self._tensors: tensor_files.Tensors | None = tensors
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        try:
            # The priority of this thread alone: it takes what the run leaves of the cores.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
            tensor_files.write_part(self._prefix, self._tensors)
            if agreement.is_alone():
                self._complete()
        except BaseException as error:  # Raised again by `finish`.
            self._error = error
        finally:
            self._tensors = None

    def is_written(self) -> bool:
        """Whether all hosts have written their parts; all call it, after each step or batch."""
        self._steps += 1
        is_alive = self._thread.is_alive()
        if agreement.is_alone():
            return not is_alive
        if self._steps % _LOOK_EVERY:
            return False
        return not agreement.any_of("a checkpoint is still being written", is_alive)

    def finish(self) -> None:
        """Waits until the checkpoint is whole.

        Raises:
          Exception: what its writing raised; the checkpoint is then absent.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        if not agreement.is_alone():
            self._complete()

    def _complete(self) -> None:
        with self._open:
            tensor_files.join(self._prefix)
