"""Reads datasets with errors of one line, which name the file and the line at fault."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from switch_tf import storage, user_code
from switch_tf.data.autograph import without_autograph
from switch_tf.errors import UserError
from switch_tf.stages import telling

# Seconds for which an error's record is looked for. It may be anywhere in a corpus.
_SEARCH_SECONDS = 60.0
# Records of a file that are tried first; then twice as many each time.
_FIRST_RECORDS = 1024
_LONGEST_SHOWN = 100
# Of a row, in tokens. What a preprocessor refuses does not depend on it.
_LENGTH = 512
# Seconds for which the data of tasks are read before a run, so that errors come before its work.
_CHECK_SECONDS = 10.0
# What TensorFlow says of text that is not UTF-8.
_NOT_UTF8 = "Invalid formatting on input string"
# What SeqIO says of examples that do not fit the task.
_UNFIT = re.compile("(Task d|D)ataset (is missing|has incorrect)")


class TaskSplit(NamedTuple):
    """A split of a task or mixture, as what is read.

    Attributes:
      name: the name of the task or mixture.
      split: the name of the split.
    """

    name: str
    split: str

    def __str__(self) -> str:
        return f"'{self.name}', split '{self.split}'"

    def culprit(self) -> str | None:
        """The first record that the preprocessors of a task refuse: its task, file and line.

        Looks through the files of the tasks, for at most a minute.

        Returns:
          Such as "'my_task', split 'train': train.tsv:21: 'no tab'"; None if no record is found, as
          in sources that do not read files.
        """
        import seqio
        import tensorflow as tf

        provider = seqio.get_mixture_or_task(self.name)
        until = time.monotonic() + _SEARCH_SECONDS
        with telling(f"{self}: looking for the record at fault", at_once=False):
            for task in seqio.get_subtasks(provider):
                if not isinstance(task.source, seqio.FileDataSource):
                    continue
                # The files may be gone since, or need another process.
                with contextlib.suppress(tf.errors.OpError, OSError, UserError):
                    found = _first_refused(task, self.split, until)
                    if found:
                        return f"{TaskSplit(task.name, self.split)}: {found}"
        return None


def _first_refused(task, split: str, until: float) -> str | None:
    if split not in task.splits:
        return None
    for path in task.source.list_shards(split):
        records = task.source._reader(path)
        number = _first_failing(task, records, until)
        if number is not None:
            (record,) = records.skip(number).take(1).as_numpy_iterator()
            # A source of lines may skip a heading.
            line = number + 1 + getattr(task.source, "_skip_header_lines", 0)
            return f"{path}:{line}: {_shown(record)}"
    return None


def _first_failing(task, records, until: float) -> int | None:
    """The number of records before the first that the task's preprocessors refuse."""
    first, count = 0, _FIRST_RECORDS
    while time.monotonic() < until:
        if not any(True for _ in records.skip(first).take(1)):
            return None
        if not _refuses(task, records.skip(first).take(count)):
            first, count = first + count, 2 * count
        elif count == 1:
            return first
        else:
            count //= 2
    return None


def _refuses(task, records) -> bool:
    import tensorflow as tf

    try:
        collections.deque(_examples(task, records), maxlen=0)
    except tf.errors.OpError:
        return True
    return False


def _examples(task, records):
    """What the preprocessors of a task make of records, which must be UTF-8 if they are text."""
    import tensorflow as tf

    lengths = dict.fromkeys(task.output_features, _LENGTH)
    if records.element_spec == tf.TensorSpec([], tf.string):
        # Tokenising it would make other characters of what is not.
        records = records.map(
            lambda text: tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="strict")
        )

    def examples():
        dataset = task.preprocess_precache(records, seed=0)
        return task.preprocess_postcache(dataset, lengths, seed=0)

    return without_autograph(examples)


def check_records(tasks: Sequence, split: str) -> None:
    """Reads the files of tasks for some seconds, so that most errors in them come before a run.

    Sources with `prepare` check their files themselves.

    Args:
      tasks: `seqio.Task`s.
      split: the split that is read.

    Raises:
      UserError: a record is not UTF-8, or the preprocessors refuse it; it is named.
    """
    import seqio

    own = [
        task
        for task in tasks
        if isinstance(task.source, seqio.FileDataSource) and not hasattr(task.source, "prepare")
    ]
    for task in own:
        until = time.monotonic() + _CHECK_SECONDS / len(own)
        with user_errors(TaskSplit(task.name, split)):
            for _ in _examples(task, task.source.get_dataset(split, shuffle=False)):
                if time.monotonic() > until:
                    break


def _shown(record: Any) -> str:
    text = record.decode("utf-8", "replace") if isinstance(record, bytes) else str(record)
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


@contextlib.contextmanager
def user_errors(what: TaskSplit | str) -> Iterator[None]:
    """Turns TensorFlow's errors in a data pipeline into UserErrors of one line.

    A UserError raised by Python code inside the pipeline arrives as text in a TensorFlow error, and
    a missing file as NotFoundError. An error in a user's code is named with its place. Other errors
    of Python code are passed on unchanged: they are defects, which a traceback helps to find.

    Args:
      what: what is read, of which the record at fault is looked for if it is a `TaskSplit`.
    """
    import tensorflow as tf

    try:
        yield
    except (FileNotFoundError, tf.errors.NotFoundError) as error:
        told = storage.first_line(error)
        if "No such file" in told:
            told += (
                f": create it, or name it so that it is found from {os.getcwd()}, such as by its "
                "absolute path"
            )
        raise UserError(f"{what}: {told}") from error
    except tf.errors.OpError as error:
        told = re.search(r"UserError: (.+)", error.message)
        if told is not None:
            raise UserError(told[1].strip()) from error
        if place := user_code.place_of(error):
            raise UserError(f"{what}: {place}") from error
        if "Traceback (most recent call last)" in error.message:
            raise
        where = what.culprit() if isinstance(what, TaskSplit) else None
        mend = "fix or remove the record, or change" if where else "see whether its data fit"
        told = storage.first_line(error).removesuffix(" in record 0")
        told = told.replace(_NOT_UTF8, "not UTF-8")
        raise UserError(f"{where or what}: {told}: {mend} the task's preprocessors") from error
    except ValueError as error:
        if not _UNFIT.match(str(error)):
            raise
        raise UserError(
            f"{what}: {storage.first_line(error)}: see the task's preprocessors and output_features"
        ) from error


def elements(dataset, what: TaskSplit | str) -> Iterator:
    """The elements of a `tf.data.Dataset` as NumPy arrays.

    Args:
      dataset: the dataset.
      what: what is read.

    Raises:
      UserError: see `user_errors`; errors of the caller's loop are not changed.
    """
    with user_errors(what):
        yield from dataset.as_numpy_iterator()
