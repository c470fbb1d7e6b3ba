"""Shares of the examples of tasks that are not cached, which hosts make apart.

As with the streams of cached tasks, each share makes the same few rows of every batch, so that a
host makes only the shares that hold its devices' rows, and every number of hosts comes to the same
batches. A share is a pipeline of SeqIO that reads the whole source, in the order that all shares
have in common, and takes every n-th record of it before the preprocessors. Files are not dealt out:
tasks of one file have shares, too, and a record's weight does not depend on its file.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np

from switch_tf.data.batch_shape import OwnRows
from switch_tf.data.permutation import key
from switch_tf.data.reading import TaskSplit
from switch_tf.errors import UserError

# Of a source that deals out its records: itself. A copy that does something else has another's.
_DEALS = "_deals_to_shares"
# Datasets that preprocessors must not make of a share, and what they do.
_OF_ALL_RECORDS = {"_SkipDataset": "skip", "_TakeDataset": "take", "CacheDataset": "cache"}

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Share:
    """One of several equal parts of what tasks read.

    Attributes:
      index: which it is, from 0.
      number: how many there are.
      seed: seeds the order of the source, which all shares have in common.
    """

    index: int
    number: int
    seed: int

    @property
    def own_seed(self) -> int:
        """Seeds the share's noise, its buffers, and how it mixes tasks."""
        # SeqIO's seeds have 31 bits.
        return key(self.seed, "share", self.index) >> 33


_share: contextvars.ContextVar[Share | None] = contextvars.ContextVar("share", default=None)


@contextlib.contextmanager
def reading(share: Share | None, tasks: Iterable) -> Iterator[None]:
    """Datasets of `seqio.Task`s that are built within this context are those of a share.

    Args:
      share: the share; they are to be built with its `own_seed`. None for all examples.
      tasks: the tasks.
    """
    for task in tasks if share is not None else ():
        _install(task)
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def _install(task) -> None:
    """Makes the source of a task deal out its records where a share is read.

    What leaves records out, such as `skipping`, comes before, whenever it was installed.
    """
    source = task.source
    if getattr(source, _DEALS, None) is source:
        return
    own = copy.copy(source)

    def get_dataset(split: str = "train", shuffle: bool = True, seed=None, shard_info=None, **more):
        share = _share.get()
        if share is None:
            return source.get_dataset(split, shuffle, seed, shard_info, **more)
        token = _share.set(None)
        try:
            records = source.get_dataset(split, shuffle, share.seed, shard_info, **more)
        finally:
            _share.reset(token)
        return _dealt(records, share)

    own.get_dataset = get_dataset
    setattr(own, _DEALS, own)
    task._source = own


def _dealt(records, share: Share):
    """The records of a share, in endless passes over all of them.

    The record at each place goes to another share in each pass, so that a share of a file of which
    every other line is dropped later is not left without any.

    The passes are endless because the iterator of one keeps what orders the files of the next. If
    they ended, a checkpoint that was taken while the last records are still in a buffer would lack
    that, and the restored share would begin again with the order of the first pass.
    """
    import tensorflow as tf

    def of_pass(number):
        return records.shard(share.number, (share.index + number) % share.number)

    return tf.data.Dataset.counter().flat_map(of_pass)


def check_steps(dataset, what: TaskSplit, number: int) -> None:
    """Checks that preprocessors do nothing that has another meaning for a share of the records.

    Args:
      dataset: what they have made of a share.
      what: what is read, for the error.
      number: the number of shares.

    Raises:
      UserError: one of them skips, takes or caches records.
    """
    left = [dataset]
    while left:
        found = left.pop()
        done = _OF_ALL_RECORDS.get(type(found).__name__)
        if done:
            raise UserError(
                f"{what}: a preprocessor has a {done}(), which would be of each share by itself "
                f"with TaskData.shares={number}: do it in the task's source, cache the task "
                "(scripts/cache_tasks.sh), or leave TaskData.shares out"
            )
        left += found._inputs()


class SharedIterator:
    """An iterator over batches, whose shares are iterators of `tf.data`.

    Attributes:
      number: the number of shares, over all hosts.
      parts: share -> iterator of `tf.data`, for those that this host makes.
      is_torn: whether one of the parts has failed, so that they are not behind the same batch.
    """

    def __init__(self, batches: SharedBatches):
        self._batches = batches
        self.number = batches.number
        self.parts = {share: iter(made) for share, made in batches.made.items()}
        self.is_torn = False

    def __iter__(self) -> SharedIterator:
        return self

    def __next__(self) -> Batch:
        try:
            each = [self._rows(share) for share in self.parts]
        except Exception:
            self.is_torn = True
            raise
        batch = {name: np.concatenate([rows[name] for rows in each]) for name in each[0]}
        return {name: self._batches.placed(rows) for name, rows in batch.items()}

    def _rows(self, share: int) -> Batch:
        rows = next(self.parts[share], None)
        if rows is None:
            raise UserError(self._batches.empty(share))
        return {name: np.asarray(value) for name, value in rows.items()}


class SharedBatches:
    """Endless shuffled batches of a task or mixture in shares.

    Args:
      what: what is read, for errors.
      batch_size: rows in a global batch.
      number: the number of shares, which divides the batch size.
      make: makes the endless batches of a share, from its index, of so many rows each.
      wanted: the rows of each batch that this host needs; None for all.

    Attributes:
      number: as given.
      made: share -> dataset, for the shares that hold a wanted row.
      rows: the rows that are made, ascending: those of these shares. The others are zeros.
    """

    def __init__(
        self,
        what: TaskSplit,
        batch_size: int,
        number: int,
        make: Callable,
        wanted: Collection[int] | None = None,
    ):
        self._what, self.number = what, number
        self._own = OwnRows(batch_size, number, wanted)
        self.rows = self._own.rows
        self.made: Mapping = {share: make(share, self._own.per_part) for share in self._own.parts}

    def __iter__(self) -> SharedIterator:
        return SharedIterator(self)

    def describe(self) -> str:
        """A line that describes the order, and which rows are made if not all are."""
        order = f"data: not cached, so in SeqIO's own order, in {self.number} shares"
        return order + self._own.describe()

    def empty(self, share: int) -> str:
        """What to tell of a share that has come to an end."""
        return (
            f"{self._what}: share {share + 1} of {self.number} (TaskData.shares) has no example "
            "that the preprocessors keep: lower it, or give the task more data"
        )

    def placed(self, rows: np.ndarray) -> np.ndarray:
        """The rows that are made, [own rows, length], at their places in a batch of zeros."""
        return self._own.placed(rows)
