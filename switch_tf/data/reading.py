"""Reads datasets with errors of one line, which name the file and the line at fault."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from switch_tf import mesh as mesh_lib
from switch_tf import storage, user_code
from switch_tf.data import counts, dropped, records
from switch_tf.data.waiting import Input, within
from switch_tf.errors import UserError
from switch_tf.stages import telling

# Seconds for which an error's record is looked for. It may be anywhere in a corpus.
SEARCH_SECONDS = 60.0
# Records that are tried together.
_FIRST_RECORDS = 1024
# Seconds for which the data of tasks are read before a run, so that errors come before its work.
_CHECK_SECONDS = 10.0
# Packages whose functions read data, and call those that tasks name.
_PIPELINES = ("seqio", "t5", "tensorflow_datasets")
# What SeqIO says of examples that do not fit the task.
_UNFIT = re.compile("(Task d|D)ataset (is missing|has incorrect)")


class Culprit(NamedTuple):
    """A record at fault.

    Attributes:
      place: its task, file and line, such as "'my_task', split 'train': train.tsv:21: 'no tab'".
      mend: what to do about one that cannot be read; empty if the preprocessors refuse it.
    """

    place: str
    mend: str


class TaskSplit(NamedTuple):
    """A split of a task or mixture, as what is read.

    Attributes:
      name: the name of the task or mixture.
      split: the name of the split.
      is_cached: whether caches of tasks are read in place of their sources.
    """

    name: str
    split: str
    is_cached: bool = False

    @classmethod
    def of(cls, data, name: str | None = None) -> TaskSplit:
        """What is read of `TaskData`, or of one task of them."""
        return cls(name or data.mixture_or_task_name, data.split, data.use_cached)

    def __str__(self) -> str:
        return f"'{self.name}', split '{self.split}'"

    def tasks(self) -> list:
        """The `seqio.Task`s that are read."""
        import seqio

        return list(seqio.get_subtasks(seqio.get_mixture_or_task(self.name)))

    def culprit(self) -> Culprit | None:
        """The first record that cannot be read or that the preprocessors of a task refuse.

        Looks through what the tasks read, for at most a minute.

        Returns:
          None if no record is found.

        Raises:
          UserError: caches are read, and one of them is damaged.
        """
        import tensorflow as tf

        from switch_tf.data import task_cache

        until = time.monotonic() + SEARCH_SECONDS
        with telling(f"{self}: looking for the record at fault", at_once=False):
            for task in self.tasks():
                if self.is_cached:
                    task_cache.check_records(task, self.split, until)
                    continue
                # The files may be gone since, or need another process.
                with contextlib.suppress(tf.errors.OpError, OSError, UserError):
                    left = until - time.monotonic()
                    for found in records.refused(task, self.split, left, _FIRST_RECORDS):
                        place = f"{TaskSplit(task.name, self.split)}: {found.place}"
                        mend = records.mend_of(task) if found.record is None else ""
                        return Culprit(place, mend)
        return None


def check_records(tasks: Sequence, split: str) -> None:
    """Reads the data of tasks for some seconds, so that most errors in them come before a run.

    It tells of control characters in them. Sources with `prepare` check their files themselves.

    Args:
      tasks: `seqio.Task`s.
      split: the split that is read.

    Raises:
      UserError: a record is not UTF-8, or the preprocessors refuse it; it is named.
    """
    import seqio

    kinds = seqio.FileDataSource | seqio.FunctionDataSource
    own = [t for t in tasks if isinstance(t.source, kinds) and not hasattr(t.source, "prepare")]
    for task in own:
        until = time.monotonic() + _CHECK_SECONDS / len(own)
        what = TaskSplit(task.name, split)
        with user_errors(what):
            raw = task.source.get_dataset(split, shuffle=False)
            files = task.source.list_shards(split)
            is_of_files = bool(files) and isinstance(task.source, seqio.FileDataSource)
            of_lines = is_of_files and records.are_lines(task.source._reader(files[0]), files[0])
            noted = dropped.Noted(task)
            for _ in records.checked_examples(noted.task, raw, of_lines):
                if time.monotonic() > until:
                    break
        if noted.number and not any(map(dropped.was_told, files)):
            print(dropped.told(str(what), noted.number), file=sys.stderr)


@contextlib.contextmanager
def user_errors(what: TaskSplit | str) -> Iterator[None]:
    """Turns errors of a data pipeline into UserErrors of one line.

    A UserError raised by Python code inside the pipeline arrives as text in a TensorFlow error, and
    a missing file as NotFoundError. An error in a user's code is named with its place, and so is
    one in SeqIO or a library that it calls. Other errors are passed on unchanged: they are defects,
    which a traceback helps to find.

    Args:
      what: what is read, of which the record at fault is looked for if it is a `TaskSplit`.
    """
    import tensorflow as tf

    try:
        yield
    except UserError:
        raise
    except (FileNotFoundError, tf.errors.NotFoundError) as error:
        told = storage.first_line(error)
        if "No such file" in told:
            told += (
                f": create it, or name it so that it is found from {os.getcwd()}, such as by its "
                "absolute path"
            )
        raise UserError(f"{what}: {told}") from error
    except tf.errors.OpError as error:
        told = told_by_user_error(error.message)
        # What a user's code raises is Unknown, too.
        if told is None and not user_code.quotes_traceback(error) and storage.is_passing(error):
            raise storage.failure(f"{what}: the data cannot be read", error) from error
        if told is None and user_code.is_defect(error):
            raise
        raise UserError(told or _told_of_pipeline(error, what)) from error
    except Exception as error:
        if isinstance(error, ValueError) and _UNFIT.match(str(error)):
            told = f"{storage.first_line(error)}: see the task's preprocessors and output_features"
        elif user_code.passes(error, _PIPELINES):
            told = user_code.place_of(error) or f"{user_code.innermost(error)}{_step_of(error)}"
        else:
            raise
        raise UserError(f"{what}: {told}") from error


def _step_of(error: Exception) -> str:
    """Which preprocessor SeqIO had called, for the end of an error; empty if it had called none."""
    import seqio

    for frame, _ in traceback.walk_tb(error.__traceback__):
        found = frame.f_locals
        if frame.f_code.co_name == "_preprocess_dataset" and "prep_fn" in found:
            where = f", in the preprocessor {seqio.utils.function_name(found['prep_fn'])}"
            if found["dataset"] is None:
                return f"{where}: the source or step before it gave None"
            text = _text_in(found["dataset"], found["self"].output_features)
            if text:
                return (
                    f"{where}: '{text}' is text there: tokenize it before, if the step wants tokens"
                )
            return where
    return ""


def _text_in(dataset, features: Iterable[str]) -> str | None:
    """The first of these features that is text in a dataset."""
    import tensorflow as tf

    spec = dataset.element_spec
    found = spec if isinstance(spec, dict) else {}
    texts = (f for f in features if getattr(found.get(f), "dtype", None) == tf.string)
    return next(texts, None)


def told_by_user_error(text: str) -> str | None:
    """What a UserError says that another error quotes; None if it quotes none."""
    told = re.search(r"UserError: (.+)", text)
    return told[1].strip() if told else None


def _told_of_pipeline(error, what: TaskSplit | str) -> str:
    """What to tell of an error that TensorFlow raised while a dataset was read."""
    if isinstance(what, TaskSplit) and counts.is_other_number(error):
        with telling(f"{what}: looking for the file at fault", at_once=False):
            told = counts.told(error, what.tasks(), what.split, SEARCH_SECONDS)
        if told is not None:
            return told
    culprit = what.culprit() if isinstance(what, TaskSplit) else None
    where = culprit.place if culprit else what
    if user_code.quotes_traceback(error):
        return f"{where}: {user_code.place_of(error) or user_code.innermost(error)}"
    told = records.told(error)
    if culprit and culprit.mend:
        return f"{where}: cannot be read: {told}: {culprit.mend}"
    mend = "fix or remove the record, or change" if culprit else "see whether its data fit"
    return f"{where}: {told}: {mend} the task's preprocessors"


def elements(dataset, what: TaskSplit | str) -> Iterator:
    """The elements of a `tf.data.Dataset` as NumPy arrays.

    Args:
      dataset: the dataset.
      what: what is read.

    Raises:
      UserError: see `user_errors`; errors of the caller's loop are not changed.
      InputHangs: one has not come in time; see `waiting.Input`.
    """
    timeout = Input().timeout
    with user_errors(what), mesh_lib.host():
        iterator = dataset.as_numpy_iterator()

    def take():
        # In another thread, which has no context of the caller's.
        with mesh_lib.host():
            return next(iterator, None)

    while True:
        with user_errors(what):
            element = within(timeout, take, f"data of {what}")
        if element is None:
            return
        yield element
