"""The records of a task, one by one: what its preprocessors make of them, and which they refuse."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from switch_tf import storage
from switch_tf.data import readers
from switch_tf.data.autograph import without_autograph

# The attribute with the source that one was made of which leaves records out.
BARE = "with_all_records"
_LONGEST_SHOWN = 100
# What TensorFlow says of text that is not UTF-8.
_NOT_UTF8 = "Invalid formatting on input string"
# Number of keys of records.
_KEYS = 2**63 - 1
# Of a row, in tokens. What a preprocessor refuses does not depend on it.
_LENGTH = 512


class Refused(NamedTuple):
    """A record that cannot be read, or that the preprocessors refuse.

    Attributes:
      place: the file and line or number of the record, and the record itself if it can be read.
      record: its tensors; None if it cannot be read.
      error: what TensorFlow says of it.
    """

    place: str
    record: Any
    error: Exception


class _Part(NamedTuple):
    """Records that are read one after the other: those of a file, or of all of a source.

    Attributes:
      place: gives the place of a record, from its number.
      records: a `tf.data.Dataset`.
      are_lines: whether they are lines of text.
    """

    place: Callable[[int], str]
    records: Any
    are_lines: bool = False


def examples_of(
    task, split: str, lengths: Mapping[str, int] | None = None, use_cached: bool = False
):
    """What the preprocessors of a task make of a split, before trimming, as a `tf.data.Dataset`.

    Args:
      task: a `seqio.Task`.
      split: the split, in the order of its source.
      lengths: feature -> length in tokens; None for any.
      use_cached: whether to read the task's cache in place of its source.
    """
    from switch_tf.data import task_cache

    source = task_cache.checked_source(task, split) if use_cached else task.source

    def build():
        dataset = source.get_dataset(split, shuffle=False)
        if not use_cached:
            dataset = task.preprocess_precache(dataset, seed=0)
        return task.preprocess_postcache(dataset, lengths or _any_lengths(task), seed=0)

    return without_autograph(build)


def checked_examples(task, records, are_lines: bool):
    """What the preprocessors of a task make of records.

    Args:
      task: a `seqio.Task`.
      records: a `tf.data.Dataset`.
      are_lines: whether they are lines of text, which must be UTF-8; see `are_lines`.
    """
    import tensorflow as tf

    if are_lines:
        # Tokenising it would make other characters of what is not.
        records = records.map(
            lambda text: tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="strict")
        )

    def examples():
        dataset = task.preprocess_precache(records, seed=0)
        return task.preprocess_postcache(dataset, _any_lengths(task), seed=0)

    return without_autograph(examples)


def are_lines(records, path: str) -> bool:
    """Whether the records of a file are strings, and those of a text rather than of TFRecords.

    Args:
      records: what a reader makes of the file, a `tf.data.Dataset`.
      path: the path of the file.
    """
    import tensorflow as tf

    if records.element_spec != tf.TensorSpec([], tf.string):
        return False
    kind = readers.of(records).kind
    if kind is not None:
        return kind == readers.LINES
    with contextlib.suppress(*storage.errors()):
        return not readers.has_records(path, readers.compression_of(path))
    return True


def refused(task, split: str, seconds: float, at_once: int) -> Iterator[Refused]:
    """Yields the records of a split that cannot be read or that the preprocessors refuse.

    Of a file, those behind one that cannot be read are not looked at.

    Args:
      task: a `seqio.Task`.
      split: the split.
      seconds: the time after which no more are looked for, beyond the first ones of all.
      at_once: how many records are tried together.
    """
    until, is_first = time.monotonic() + seconds, True
    for part in _parts(task, split) if split in task.splits else ():
        # A machine that stands still for a while shall not hide what is wrong at the very start.
        if not is_first and time.monotonic() > until:
            return
        is_first = False
        yield from _refused_of(task, part, until, at_once)


def _parts(task, split: str) -> Iterator[_Part]:
    import seqio

    source = getattr(task.source, BARE, task.source)
    if hasattr(source, "place"):
        records = source.get_dataset(split, shuffle=False)
        yield _Part(lambda number: source.place(split, number), records)
    elif isinstance(source, seqio.FileDataSource):
        # A source of lines may skip a heading.
        first = 1 + getattr(source, "_skip_header_lines", 0)
        for path in source.list_shards(split):
            records = source._reader(path)
            of_lines = are_lines(records, path)
            between = ":" if of_lines else ", record "
            yield _Part(lambda n, p=path, b=between: f"{p}{b}{first + n}", records, of_lines)
    else:
        yield _Part(lambda n: f"record {n + 1}", source.get_dataset(split, shuffle=False))


def _refused_of(task, part: _Part, until: float, at_once: int) -> Iterator[Refused]:
    import tensorflow as tf

    # Built once: a pipeline takes longer to build than to try many records.
    tried: list = []
    again = tf.data.Dataset.from_generator(
        lambda: iter(list(tried)), output_signature=part.records.element_spec
    )
    examples = checked_examples(task, again, part.are_lines)

    def error_of(records: list) -> Exception | None:
        tried[:] = records
        with _caught(tf.errors.OpError) as errors:
            collections.deque(examples, maxlen=0)
        return errors[0] if errors else None

    first, remaining = 0, iter(part.records)
    while True:
        chunk: list = []
        with _caught(tf.errors.OpError) as errors:
            while len(chunk) < at_once and (record := next(remaining, None)) is not None:
                chunk.append(record)
        for number, error in _refused_in(chunk, error_of):
            place = f"{part.place(first + number)}: {_shown(chunk[number])}"
            yield Refused(place, chunk[number], error)
        if errors:
            yield Refused(part.place(first + len(chunk)), None, errors[0])
        if errors or len(chunk) < at_once or time.monotonic() > until:
            return
        first += len(chunk)


def _refused_in(
    chunk: list, error_of: Callable[[list], Exception | None]
) -> Iterator[tuple[int, Exception]]:
    """Yields the numbers of the records in a list that are refused, and why."""
    waiting = [(0, len(chunk))] if chunk else []
    while waiting:
        begin, end = waiting.pop()
        error = error_of(chunk[begin:end])
        if error is not None and end - begin == 1:
            yield begin, error
        elif error is not None:
            middle = (begin + end) // 2
            waiting += [(middle, end), (begin, middle)]


@contextlib.contextmanager
def _caught(kind: type[Exception]) -> Iterator[list[Exception]]:
    """Context that ends at an error of a kind, which the list that it yields then has."""
    errors: list[Exception] = []
    try:
        yield errors
    except kind as error:
        errors.append(error)


def key(record):
    """A number that tells a record from others, whatever the order in which they are read."""
    import tensorflow as tf

    parts = [tf.io.serialize_tensor(p) for p in tf.nest.flatten(record, expand_composites=True)]
    return tf.strings.to_hash_bucket_fast(tf.strings.join(parts), _KEYS)


def mend_of(task) -> str:
    """What to do about a record of a task that cannot be read."""
    import seqio

    if isinstance(task.source, seqio.FileDataSource):
        return "the file may be damaged; write it again"
    return f"mend what the source reads, {_name_of(task.source)}: it ends there"


def _name_of(source) -> str:
    import seqio

    if isinstance(source, seqio.FunctionDataSource):
        return f"function {seqio.utils.function_name(source._dataset_fn)}"
    return type(source).__name__


def told(error: Exception) -> str:
    """What TensorFlow says of a record, without what it says of its parts."""
    told = storage.first_line(error).removesuffix(" in record 0")
    return told.replace(_NOT_UTF8, "not UTF-8")


def _any_lengths(task) -> dict[str, int]:
    return dict.fromkeys(task.output_features, _LENGTH)


def _shown(record: Any) -> str:
    import tensorflow as tf

    values = tf.nest.map_structure(
        lambda value: value.numpy() if hasattr(value, "numpy") else value, record
    )
    text = values.decode("utf-8", "replace") if isinstance(values, bytes) else str(values)
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")
