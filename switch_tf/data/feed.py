"""Batches of a host dataset as DTensors, timing how long the mesh waits for them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.data.batch_shape import count_tokens, feature_axes
from switch_tf.data.ordered import OrderedBatches
from switch_tf.data.reading import TaskSplit, user_errors
from switch_tf.data.shares import SharedBatches
from switch_tf.data.stamps import stamps
from switch_tf.data.waiting import Input, within


class Feed:
    """Iterates over a dataset and shards each batch over a mesh by ("batch", "length").

    The iterator prefetches by itself and is the only holder of the position, so that a checkpoint
    taken between two calls of `next` resumes with the batch of the second call; see
    `checkpoints.position`.

    Args:
      dataset: the batches, of NumPy arrays or tensors.
      mesh: the mesh in use.
      what: what is read, for errors; see `reading.user_errors`.

    Attributes:
      iterator: that of the dataset.
      wait_seconds: time that the last `next` waited for the host's data.
      tokens: (input tokens, target tokens) in the last batch, excluding padding. Where this host
        makes a part of its rows, as many times more as there are rows: an estimate.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset | OrderedBatches | SharedBatches,
        mesh: mesh_lib.Mesh,
        what: TaskSplit | str = "data",
    ):
        self.mesh = mesh
        self._what = what
        self._timeout = Input().timeout
        self.wait_seconds = 0.0
        self.tokens = (0, 0)
        # None: all of a batch.
        self._rows = getattr(dataset, "rows", None)
        with mesh_lib.host():
            self.iterator = iter(dataset)

    @property
    def tells_position(self) -> bool:
        """Whether the position can be saved while a batch does not come: not that of tf.data."""
        return isinstance(self.iterator, tf.train.experimental.PythonState)

    @property
    def is_torn(self) -> bool:
        """Whether one of several shares has failed to give its rows of a batch, for good."""
        return getattr(self.iterator, "is_torn", False)

    @functools.cached_property
    def files(self) -> dict[str, list]:
        """What is read, as far as it is known and not cached; see `stamps.stamps`."""
        if not isinstance(self._what, TaskSplit) or self._what.is_cached:
            return {}
        with mesh_lib.host():
            return stamps(self._what.tasks(), self._what.split)

    def skip(self, batches: int) -> None:
        """Passes over the next batches.

        Raises:
          UserError, InputHangs: see `next`.
        """
        for _ in range(batches):
            self._wait()

    def next(self, is_over: Callable[[], bool] = lambda: False) -> dict:
        """The next batch: feature name -> int32 DTensor [batch, length].

        Args:
          is_over: see `waiting.within`.

        Raises:
          StopIteration: the dataset is at its end.
          UserError: the reader reports an error in the user's files.
          InputHangs: it has not come in time.
        """
        start = time.perf_counter()
        batch = self._wait(is_over)
        self.wait_seconds = time.perf_counter() - start
        self.tokens = count_tokens(batch, self._rows)
        return {n: self.mesh.pack(v, feature_axes(n)) for n, v in batch.items()}

    def _wait(self, is_over: Callable[[], bool] = lambda: False) -> dict[str, np.ndarray]:
        what = f"a batch of {self._what}"
        batch, state = within(self._timeout, self._take, what, is_over)
        if self.tells_position:
            self.iterator.move_to(state)
        return batch

    def _take(self) -> tuple[dict[str, np.ndarray], Any]:
        """A batch, and where it is known the position behind it, to which `_wait` moves.

        A batch that comes after the wait for it was given up must not move the position.
        """
        with mesh_lib.host(), user_errors(self._what):
            if self.tells_position:
                batch, state = self.iterator.ahead()
            else:
                batch, state = next(self.iterator), None
            return {name: np.asarray(value) for name, value in batch.items()}, state
