"""Compares what an epoch reads of SeqIO's own sources with what was counted before it."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator, Sequence

from switch_tf import storage
from switch_tf.data import readers

# An attribute of the copy of a source that compares.
_COMPARES = "compares_counts"
# What TensorFlow says if it reads another number.
_OTHER_NUMBER = re.compile(r"expected to contain ([\d,]+) elements? but contained (.*?\d+) element")
# Records that are read at a time.
_AT_A_TIME = 4096

# (Path, kind) -> number of the lines or records that the check counted in a file.
_counted: dict[tuple[str, str], int] = {}


def keep(path: str, kind: str, number: int) -> None:
    """Keeps the number of lines or records, by `readers.LINES` or RECORDS, of a file."""
    _counted[path, kind] = number


def install(task) -> None:
    """Makes a task compare what an epoch reads with what was counted, if all of it was.

    Of a function, it is the `num_input_examples` that its source gives. TFDS compares by itself.
    A reader that leaves records out, such as by a filter, is not compared.

    Args:
      task: a `seqio.Task`.
    """
    import seqio
    import tensorflow as tf

    source = task.source
    is_own = isinstance(source, seqio.FileDataSource | seqio.FunctionDataSource)
    if not is_own or hasattr(source, "prepare") or hasattr(source, _COMPARES):
        return
    own = copy.copy(source)

    def get_dataset(split: str = "train", shuffle: bool = True, seed=None, shard_info=None, **more):
        dataset = source.get_dataset(split, shuffle, seed, shard_info, **more)
        number = _expected(source, split, shard_info)
        if number is None:
            return dataset
        return dataset.apply(tf.data.experimental.assert_cardinality(number))

    own.get_dataset = get_dataset
    setattr(own, _COMPARES, True)
    task._source = own


def _expected(source, split: str, shard_info) -> int | None:
    """Number of records in a split, or in a shard of it; None if it is not known."""
    import seqio

    if isinstance(source, seqio.FunctionDataSource):
        return (source._num_input_examples or {}).get(split)
    if not _counted:
        return None
    each = dict(_of_files(source, split))
    paths = list(each)
    if shard_info:
        paths = paths[shard_info.index :: shard_info.num_shards]
    found = [each[path] for path in paths]
    return None if None in found else sum(found)


def _of_files(source, split: str) -> Iterator[tuple[str, int | None]]:
    """Each file of a split, with the number of records that a reader gives of what was counted."""
    paths = source.list_shards(split)
    reader = readers.of_source(source, paths[0]) if paths else readers.Reader()
    for path in paths:
        number = _counted.get((path, reader.kind or ""))
        yield path, None if number is None else reader.read_of(number)


def is_other_number(error: Exception) -> bool:
    """Whether an error says that another number of records was read than was counted."""
    return _OTHER_NUMBER.search(str(error)) is not None


def told(error: Exception, tasks: Sequence, split: str, seconds: float) -> str | None:
    """Says of which task and file another number of records was read, and the mend.

    Args:
      error: one for which `is_other_number` is true.
      tasks: `seqio.Task`s, of which it is one.
      split: the split that was read.
      seconds: the time after which no more of their files are read once more.

    Returns:
      None if neither is found.
    """
    import seqio

    counted, read = _OTHER_NUMBER.search(str(error)).groups()
    until = time.monotonic() + seconds
    for task in tasks:
        what, source = f"'{task.name}', split '{split}'", task.source
        if split not in task.splits or _expected(source, split, None) is None:
            continue
        if isinstance(source, seqio.FunctionDataSource):
            if _expected(source, split, None) == int(counted):
                return (
                    f"{what}: {read} records were read of its function, but num_input_examples of "
                    f"its source says {counted}: correct the function or the number, or leave it "
                    "out"
                )
            continue
        for path, number in _of_files(source, split):
            now = _read(source._reader(path), until)
            if now != f"{number:,}":
                return (
                    f"{what}: {path}: {now} records are read, but {number:,} were counted before: "
                    "the file has changed meanwhile, or TensorFlow's reader loses a part: write "
                    "it again if it is damaged, and rerun the command"
                )
    return None


def _read(records, until: float) -> str:
    """How many records are read, or that no end is reached in time, or an error."""
    import tensorflow as tf

    number = 0
    try:
        for batch in records.map(lambda *_: 0).batch(_AT_A_TIME):
            number += len(batch)
            if time.monotonic() > until:
                return f"more than {number:,}"
    except tf.errors.OpError as error:
        return f"{number:,} ({storage.first_line(error)})"
    return f"{number:,}"
