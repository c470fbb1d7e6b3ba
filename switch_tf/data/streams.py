"""Streams: independent shares of the data, each of which makes the same few rows of every batch.

Their number depends on the batch size alone. A stream has its own examples, its own place in the
schedule of a mixture and, if packed, its own rows, so that a host makes only the streams that its
devices need, and every number of hosts comes to the same batches.
"""

from collections.abc import Mapping, Sequence

from switch_tf.data.batch_shape import TASK_FEATURES
from switch_tf.data.permutation import CYCLE, Schedule
from switch_tf.data.windows import Example, Windows
from switch_tf.errors import UserError

# As many hosts can share the work. Each stream makes a window of each task before its first row,
# and shorter windows cost more per example, so that more streams would slow one host down.
_MOST = 16

# [examples of the mixture so far, [window, offset in it] of each task].
Position = list


def number_of_streams(batch_size: int) -> int:
    """The number of streams that make the rows of a batch, each equally many."""
    return max(n for n in range(1, min(batch_size, _MOST) + 1) if batch_size % n == 0)


class Stream:
    """The endless rows of one stream.

    Args:
      number: which of the streams it is.
      tasks: the tasks of the mixture, which know the number of streams.
      schedule: determines from which task each example comes.
      lengths: feature -> length of a row in tokens.
      pack: whether a row holds as many examples as fit.
      position: where the stream begins; a `Stream.position`, or `start`.
    """

    def __init__(
        self,
        number: int,
        tasks: Sequence[Windows],
        schedule: Schedule,
        lengths: Mapping[str, int],
        pack: bool,
        position: Position,
    ):
        self._number, self._tasks, self._schedule = number, tasks, schedule
        self._lengths, self._pack = lengths, pack
        # Spread over the cycle, so that tasks have their shares over the streams together, too,
        # long before a stream has been through it.
        self._phase = number * CYCLE // tasks[0].streams
        self._loaded: list = [(None, [])] * len(tasks)
        self._taken, cursors = position
        self._cursors = [list(cursor) for cursor in cursors]

    @staticmethod
    def start(number_of_tasks: int) -> Position:
        """The position before the first row."""
        return [0, [[0, 0]] * number_of_tasks]

    @property
    def position(self) -> Position:
        """The position behind the last row, as JSON can hold it."""
        return [self._taken, [list(cursor) for cursor in self._cursors]]

    def row(self) -> list[Example]:
        """The examples of the next row: one or, if packed, as many as fit, in order.

        Raises:
          UserError: the preprocessors of a task drop all its examples.
        """
        row, room = [], dict(self._lengths)
        while True:
            example = self._peek()
            lengths = {name: len(example[name]) for name in TASK_FEATURES}
            if row and any(lengths[name] > room[name] for name in TASK_FEATURES):
                return row
            row.append(example)
            self._advance()
            room = {name: room[name] - lengths[name] for name in TASK_FEATURES}
            if not self._pack or not any(lengths.values()):
                return row

    def _task(self) -> int:
        """Index of the task that the next example comes from."""
        return self._schedule.at(self._taken, self._phase)

    def _peek(self) -> Example:
        """The next example, which `_advance` moves past."""
        index = self._task()
        cursor, task = self._cursors[index], self._tasks[index]
        while True:
            window, offset = cursor
            if self._loaded[index][0] != window:
                self._loaded[index] = (window, task.examples(self._number, window))
            examples = self._loaded[index][1]
            if offset < len(examples):
                return examples[offset]
            # Where most examples are dropped, a stream may have none for many windows.
            if not examples and task.is_empty:
                raise UserError(
                    f"cache of task '{task.name}' has no examples: its preprocessors drop them all"
                )
            cursor[:] = [window + 1, 0]

    def _advance(self) -> None:
        self._cursors[self._task()][1] += 1
        self._taken += 1
