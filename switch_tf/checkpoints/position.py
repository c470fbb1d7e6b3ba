"""The position in the training data, as a checkpoint holds it."""

import json
import re

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf import runtime, storage
from switch_tf.checkpoints import tensor_files
from switch_tf.checkpoints.model_dir import data_prefix
from switch_tf.data.ordered import OTHER_RUN
from switch_tf.data.shares import SharedIterator
from switch_tf.data.waiting import Input, within
from switch_tf.errors import UserError
from switch_tf.hosts import agreement

_OTHER_DATA = "Failed to restore dataset iterator"
_WHAT = "the position in the data"
_SHARE = re.compile(r"data\.share-\d+-of-(\d+)\.index")


class Position:
    """Writes and reads the position of an iterator, on all hosts.

    Of a cache, and of other data where each host makes all rows, the chief writes one that holds
    for all hosts; of shares, each is written by the first host that makes it.

    Args:
      iterator: that of the training data.
    """

    def __init__(self, iterator):
        self._iterator = iterator
        self._is_cached = isinstance(iterator, tf.train.experimental.PythonState)
        self._shares = iterator.number if isinstance(iterator, SharedIterator) else 1
        # By share; a position that is not in shares is that of share 0.
        parts = iterator.parts if self._shares > 1 else {0: iterator}
        self._parts = {share: tf.train.Checkpoint(iterator=part) for share, part in parts.items()}
        self._own = sorted(self._parts)
        if self._shares > 1:
            self._own = self._first_made()
        elif not runtime.is_chief():
            self._own = []

    def _first_made(self) -> list[int]:
        """The shares that this host makes, and no host before it."""
        if agreement.is_alone():
            return self._own
        host = runtime.host_index()
        said = agreement.to_chief("shares of the data", json.dumps(self._own))
        each = json.loads(agreement.from_chief("who makes them", json.dumps(said)))
        before = {share for other in each[:host] for share in json.loads(other)}
        return sorted(set(self._own) - before)

    def write(self, folder: str) -> None:
        """Writes this host's part of the position to a checkpoint's folder; all hosts call it."""
        if self._is_cached:
            # Each host knows only where the streams are that it makes.
            own = self._iterator.serialize()
            self._iterator.join(agreement.to_chief(_WHAT, own))
        for share in self._own:
            within(Input().timeout, lambda share=share: self._write(folder, share), _WHAT)

    def _write(self, folder: str, share: int) -> None:
        with mesh_lib.host():
            self._parts[share].write(self._prefix(folder, share))

    def _prefix(self, folder: str, share: int) -> str:
        prefix = data_prefix(folder)
        if self._shares == 1:
            return prefix
        return f"{prefix}.share-{share:05d}-of-{self._shares:05d}"

    def read(self, folder: str) -> None:
        """Moves the iterator to the position in a checkpoint's folder.

        Raises:
          UserError: it is a position in other data.
          Exception: a file is damaged; see `restore.DAMAGED`.
        """
        self._check_order(folder)
        for share, part in self._parts.items():
            with mesh_lib.host():
                try:
                    part.read(self._prefix(folder, share)).assert_consumed()
                except (tf.errors.OpError, ValueError) as error:
                    if _OTHER_DATA not in str(error):
                        raise
                    raise UserError(
                        f"checkpoint '{folder}' belongs to a run on other data: use its "
                        f"MIXTURE_OR_TASK_NAME, TASK_FEATURE_LENGTHS and PACK, or {OTHER_RUN}"
                    ) from error

    def _check_order(self, folder: str) -> None:
        """Checks that the saved position is in the same order as this run's data.

        Raises:
          UserError: it is not.
        """
        found = filter(None, map(_SHARE.fullmatch, storage.names(folder)))
        shares = next((int(match[1]) for match in found), 1)
        was_cached = False
        if shares == 1:
            saved = tensor_files.reader(data_prefix(folder)).get_variable_to_shape_map()
            was_cached = any("py_state" in name for name in saved)
        if was_cached != self._is_cached:
            raise UserError(
                f"checkpoint '{folder}' belongs to a run with USE_CACHED_TASKS={was_cached}, which "
                f"reads the data in another order: set it to {was_cached}, or use {OTHER_RUN}"
            )
        if shares != self._shares:
            raise UserError(
                f"checkpoint '{folder}' belongs to a run with TaskData.shares={shares}, which "
                f"reads the data in another order than {self._shares}: set it to {shares}, or use "
                f"{OTHER_RUN}"
            )
