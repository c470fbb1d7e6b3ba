"""Checks the files of SeqIO's own sources for what TensorFlow's readers lose without an error.

They drop carriage returns, so that the words on both sides become one. They end without an error
where a compressed file or a TFRecord file is cut off, at an empty member of a gzip file, as
concatenated files may have one, and at the end of the first of several ZLIB streams. Lines and
records are counted, and `counts` compares them with what an epoch reads.
"""

from __future__ import annotations

import os
import sys
import tempfile

import seqio
import tensorflow as tf

from switch_tf import runtime, storage
from switch_tf.data import contents, counts, dropped, readers, tfrecords
from switch_tf.data import records as records_lib
from switch_tf.data.contents import Content
from switch_tf.data.readers import GZIP, LINES, PLAIN, RECORDS, ZLIB
from switch_tf.data.skipping import bad_data
from switch_tf.errors import UserError
from switch_tf.stages import counting

# Up to this many bytes of a source are looked through, in seconds.
CHECKED_BYTES = 1_000_000_000
# Why a reader may end before a file does, and the mend.
_WHERE_IT_ENDS = {
    GZIP: "at an empty member of a gzip file, or at zeros that fill one up: write it anew, such as "
    "with zcat FILE | gzip > NEW",
    ZLIB: "at the end of the first of several ZLIB streams: write it anew as one stream",
}
# Lines among which a reader's first record is looked for, to tell whether it reads lines.
_FIRST_LINES = 10
# Files that were checked, by path, size and time.
_checked: set[tuple] = set()


def check(source: seqio.FileDataSource) -> None:
    """Checks the files of all splits.

    With BAD_DATA='skip', it is only printed how many lines have carriage returns inside.

    Raises:
      UserError: a file is damaged, or has lines or members that would be lost; the message names it
        and the line.
    """
    files = _files(source)
    total, done = sum(stat.length for _, stat in files), 0
    with counting("checking files", "files", len(files), at_once=False) as add:
        for path, stat in files:
            if done + stat.length > CHECKED_BYTES:
                runtime.tell(
                    f"of {total:,} bytes of {path} and the other files of its task, the first "
                    f"{done:,} were checked for what TensorFlow's readers lose, such as carriage "
                    "returns"
                )
                return
            done += stat.length
            form = _form(source, path)
            stamp = path, *form, stat.length, stat.mtime_nsec, bad_data()
            if stamp not in _checked:
                _check(source, path, *form)
                _checked.add(stamp)
            add(1)


def check_function(source: seqio.FunctionDataSource) -> None:
    """Checks the files of a function, as far as the datasets that it returns show them.

    Raises:
      UserError: see `check`.
    """
    # Not the one that leaves records out, which reads all of them.
    source = getattr(source, records_lib.BARE, source)
    for split in source.splits:
        try:
            dataset = source.get_dataset(split, shuffle=False)
        except Exception:
            # A run that reads this split will tell.
            continue
        of_files = readers.source_of_files(dataset, split)
        if of_files is not None:
            check(of_files)


def _files(source: seqio.FileDataSource) -> list[tuple]:
    """Each local file of a source with its state, without those that are not there."""
    found = {}
    for split in source.splits:
        try:
            paths = source.list_shards(split)
        except (ValueError, *storage.errors()):
            # A run that reads this split will tell.
            continue
        for path in paths:
            if storage.is_file(path):
                found[path] = tf.io.gfile.stat(path)
    return list(found.items())


def _check(source: seqio.FileDataSource, path: str, kind: str | None, compression: str) -> None:
    with storage.told(f"{path}: cannot be read"):
        content = Content(path, compression)
        if kind == LINES:
            _check_lines(path, content)
        elif kind == RECORDS:
            _check_end(path, content)
        else:
            length = sum(map(len, content.blocks()))
            if 0 < length < tfrecords.HEADER and not _summary(source._reader(path))[0]:
                raise UserError(f"{path}: no record in it: write the file again, or remove it")
        if content.is_parted:
            _check_parts(source, path, content)


def _form(source: seqio.FileDataSource, path: str) -> tuple[str | None, str]:
    """What a source reads a file as, LINES, RECORDS or neither, and how it is compressed."""
    reader = readers.of_source(source, path)
    if reader.kind is not None:
        return reader.kind, reader.compression
    if _reads_lines(source, path, PLAIN):
        return LINES, PLAIN
    compression = readers.compression_of(path)
    if readers.has_records(path, compression):
        return RECORDS, compression
    if compression != PLAIN and _reads_lines(source, path, compression):
        return LINES, compression
    return None, compression


def _check_end(path: str, content: Content) -> None:
    if content.compression == PLAIN:
        # From the lengths alone, without what is between them.
        with storage.opened(path, "rb") as file:
            offsets, cut_off = tfrecords.scan(file, tf.io.gfile.stat(path).length)
        count, where = len(offsets), "byte"
    else:
        count, cut_off = contents.records_of(content)
        where = "its uncompressed byte"
    if cut_off is not None:
        raise UserError(f"{path}: cut off at {where} {cut_off}: write the file again")
    counts.keep(path, RECORDS, count)


def _check_parts(source: seqio.FileDataSource, path: str, content: Content) -> None:
    """Checks that a reader comes to the end of a compressed file of several parts."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, os.path.basename(path))
        content.pack(copy)
        whole = _summary(source._reader(copy))
        try:
            read = _summary(source._reader(path))
        except tf.errors.OpError as error:
            told = f"cannot be read: {storage.first_line(error)}, because TensorFlow's reader fails"
        else:
            if read == whole:
                return
            told = (
                f"{read[0]:,} of {whole[0]:,} records are read, or the last only in part, because "
                "TensorFlow's reader ends"
            )
    raise UserError(f"{path}: {told} {_WHERE_IT_ENDS[content.compression]}")


def _summary(records: tf.data.Dataset) -> tuple[int, int]:
    """The number of records, and a key that differs if one of them does."""

    def add(found, *record):
        count, key = found
        # A dataset gives the parts of a tuple by themselves.
        one = records_lib.key(record[0] if len(record) == 1 else record)
        return count + 1, tf.bitwise.bitwise_xor(key * 31, one)

    zero = tf.constant(0, tf.int64)
    count, key = records.reduce((zero, zero), add)
    return int(count), int(key)


def _reads_lines(source: seqio.FileDataSource, path: str, compression: str) -> bool:
    """Whether the records of a file are lines of its content."""
    records = source._reader(path)
    if records.element_spec != tf.TensorSpec([], tf.string):
        return False
    try:
        first = next(records.take(1).as_numpy_iterator(), None)
        block = next(Content(path, compression).blocks(), b"")
    except (UserError, tf.errors.OpError):
        return False
    lines = block.split(b"\n", _FIRST_LINES)[:_FIRST_LINES]
    return first in [line.replace(b"\r", b"") for line in lines]


def _check_lines(path: str, content: Content) -> None:
    found = contents.lines_of(content)
    counts.keep(path, LINES, found.count)
    if found.dropped:
        print(dropped.told(path, found.dropped), file=sys.stderr)
    if not found.inside:
        return
    first = found.inside[0]
    what = "a carriage return inside, which TensorFlow's reader drops, so that two words become one"
    if bad_data() == "skip":
        told = f"{path}: {len(found.inside):,} lines have {what} (BAD_DATA='skip')"
        runtime.tell(f"{told}, the first: {first}")
        return
    raise UserError(
        f"{path}:{first}: {what}: end lines in \\n or \\r\\n, such as by "
        "tr '\\r' '\\n' < FILE > NEW, or set BAD_DATA='skip'"
    )
