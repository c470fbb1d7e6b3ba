"""Batches of tasks that are not cached, from shares of their files.

As with the streams of cached tasks, each share makes the same few rows of every batch, so that a
host reads only the files of the rows that its devices need, and every number of hosts comes to the
same batches. A share is a pipeline of SeqIO with buffers of its own, whose position `tf.data` saves
as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import seqio

from switch_tf.data.permutation import key
from switch_tf.data.reading import TaskSplit
from switch_tf.errors import UserError

# As many hosts can share the work. Each share takes a second to build and some MB of each
# checkpoint, also where one host makes all.
_MOST = 8

Batch = dict[str, np.ndarray]


def number_of_shares(batch_size: int, tasks: Collection[seqio.Task], split: str) -> int:
    """The number of shares that make the rows of a batch, each equally many.

    It depends on what is read alone. A share has at least one file of each task: if a task has a
    single file, as a function counts, there is one share.

    Args:
      batch_size: rows in a global batch.
      tasks: the tasks that are read, which have the split.
      split: the split that is read.
    """
    files = min(len(task.source.list_shards(split)) for task in tasks)
    return max(n for n in range(1, min(batch_size, files, _MOST) + 1) if batch_size % n == 0)


class SharedIterator:
    """An iterator over batches, whose shares are iterators of `tf.data`.

    Args:
      batches: what it iterates over.

    Attributes:
      number: the number of shares, over all hosts.
      parts: share -> iterator of `tf.data`, for those that this host makes.
    """

    def __init__(self, batches: SharedBatches):
        self._batches = batches
        self.number = batches.number
        self.parts = {share: iter(made) for share, made in batches.made.items()}

    def __iter__(self) -> SharedIterator:
        return self

    def __next__(self) -> Batch:
        each = []
        for share, iterator in self.parts.items():
            rows = next(iterator, None)
            if rows is None:
                raise UserError(self._batches.empty(share))
            each.append(rows)
        return {name: self._batches.placed([rows[name] for rows in each]) for name in each[0]}


class SharedBatches:
    """Endless shuffled batches of a task or mixture of many files.

    Args:
      what: what is read, for errors.
      batch_size: rows in a global batch.
      number: a result of `number_of_shares` above 1.
      make: makes the endless batches of a share, from its `seqio.ShardInfo` and its rows in each.
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
        self._what, self._batch_size, self.number = what, batch_size, number
        per_share = batch_size // number
        wanted = range(batch_size) if wanted is None else wanted
        shares = sorted({row // per_share for row in wanted})
        self.made: Mapping = {n: make(seqio.ShardInfo(n, number), per_share) for n in shares}
        self.rows = [n * per_share + row for n in shares for row in range(per_share)]

    def __iter__(self) -> SharedIterator:
        return SharedIterator(self)

    def describe(self) -> str:
        """A line that describes the order, and which rows are made if not all are."""
        line = f"data: not cached, so in SeqIO's own order, in {self.number} shares of its files"
        if len(self.rows) == self._batch_size:
            return line
        return f"{line}; this host makes {len(self.rows):,} of {self._batch_size:,} rows"

    def empty(self, share: int) -> str:
        """What to tell of a share that has come to an end."""
        return (
            f"{self._what}: every {self.number}th of its files, from number {share + 1} on, has no "
            "examples: remove files without any, or cache the task (scripts/cache_tasks.sh)"
        )

    def placed(self, parts: list) -> np.ndarray:
        """The rows of the shares that are made, each [rows, length], in a batch of zeros."""
        rows = np.concatenate([np.asarray(part) for part in parts])
        if len(rows) == self._batch_size:
            return rows
        whole = np.zeros((self._batch_size, *rows.shape[1:]), rows.dtype)
        whole[self.rows] = rows
        return whole


def seed_of(seed: int, share: seqio.ShardInfo | None) -> int:
    """The seed of a share, so that shares differ in their noise and in how they mix tasks."""
    if share is None:
        return seed
    # SeqIO's seeds have 31 bits.
    return key(seed, "share", share.index) >> 33
