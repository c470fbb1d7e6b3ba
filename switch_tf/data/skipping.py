"""BAD_DATA, and how it leaves out records that the preprocessors of a task refuse."""

from __future__ import annotations

import copy
import functools
import math
from typing import Literal

from switch_tf import config, runtime, user_code
from switch_tf.data import records
from switch_tf.data.reading import TaskSplit
from switch_tf.errors import UserError
from switch_tf.stages import telling

POLICIES = ("stop", "skip")
# Records that are tried together.
_AT_ONCE = 1024


def bad_data() -> str:
    """BAD_DATA: whether a bad record stops the run ("stop") or is counted and skipped ("skip").

    Raises:
      UserError: it is neither.
    """
    return config.macro("BAD_DATA", POLICIES[0], annotation=Literal[POLICIES])


def install(task) -> None:
    """Makes a task leave out the records that its preprocessors refuse, if BAD_DATA is "skip".

    When a split is first read, all of its records are tried once, and it is printed how many are
    left out. Files of text, whose source checks them itself, hold nothing that is refused.

    Args:
      task: a `seqio.Task`.
    """
    import seqio

    source = task.source
    checks_itself = isinstance(source, seqio.FileDataSource) and hasattr(source, "prepare")
    if bad_data() != "skip" or checks_itself or hasattr(source, records.BARE):
        return
    # Other tasks may have the same source, and other preprocessors.
    own = copy.copy(source)

    @functools.cache
    def left_out(split: str) -> tuple[int, ...]:
        return _refused(task, split)

    def get_dataset(split: str = "train", *args, **kwargs):
        dataset = source.get_dataset(split, *args, **kwargs)
        keys = left_out(split) if bad_data() == "skip" else ()
        return dataset.filter(functools.partial(_is_none_of, keys)) if keys else dataset

    own.get_dataset = get_dataset
    setattr(own, records.BARE, source)
    task._source = own


def _refused(task, split: str) -> tuple[int, ...]:
    """Keys of the records of a split that the preprocessors refuse.

    Raises:
      UserError: a record cannot be read.
    """
    what, found = TaskSplit(task.name, split), []
    with telling(f"{what}: trying all records (BAD_DATA='skip')", at_once=False):
        for one in records.refused(task, split, math.inf, _AT_ONCE):
            if user_code.quotes_traceback(one.error):
                why = user_code.place_of(one.error) or user_code.innermost(one.error)
            else:
                why = records.told(one.error)
            if one.record is None:
                told = f"{what}: {one.place}: cannot be read: {why}"
                raise UserError(f"{told}: {records.mend_of(task)}")
            found.append((int(records.key(one.record)), f"{one.place}: {why}"))
    if found:
        first = found[0][1]
        runtime.tell(
            f"{what}: {len(found):,} records skipped (BAD_DATA='skip'), the first: {first}"
        )
    return tuple({key for key, _ in found})


def _is_none_of(keys: tuple[int, ...], *record):
    import tensorflow as tf

    # A dataset gives the parts of a tuple by themselves.
    key = records.key(record[0] if len(record) == 1 else record)
    return tf.reduce_all(key != tf.constant(keys, tf.int64))
