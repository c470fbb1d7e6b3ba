"""Checks the files of SeqIO's own sources for what TensorFlow's readers lose without an error.

They drop carriage returns, so that the words on both sides become one. They end without an error
where a gzip file or a TFRecord file is cut off, and at an empty member of a gzip file, as
concatenated files may have one.
"""

from __future__ import annotations

import gzip
import itertools
import os
import tempfile
import zlib
from collections.abc import Iterator

import seqio
import tensorflow as tf

from switch_tf import runtime, storage
from switch_tf.data import records as records_lib
from switch_tf.data import tfrecords
from switch_tf.data.skipping import bad_data
from switch_tf.errors import UserError
from switch_tf.stages import counting

# Up to this many bytes of a source are looked through, in seconds.
CHECKED_BYTES = 1_000_000_000
_GZIP = b"\x1f\x8b"
_BLOCK = 1 << 20
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
                    f"{done:,} were checked for carriage returns and empty gzip members"
                )
                return
            done += stat.length
            stamp = path, stat.length, stat.mtime_nsec, bad_data()
            if stamp not in _checked:
                _check(source, path)
                _checked.add(stamp)
            add(1)


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


def _check(source: seqio.FileDataSource, path: str) -> None:
    with storage.told(f"{path}: cannot be read"):
        with storage.opened(path, "rb") as file:
            header = file.read(tfrecords.HEADER)
        if header.startswith(_GZIP):
            _check_members(source, path)
        elif tfrecords.is_header(header):
            _check_end(path)
        elif _reads_lines(source, path):
            _check_carriage_returns(path)
        elif 0 < len(header) < tfrecords.HEADER and not _summary(source._reader(path))[0]:
            raise UserError(f"{path}: no record in it: write the file again, or remove it")


def _check_end(path: str) -> None:
    with storage.opened(path, "rb") as file:
        _, cut_off = tfrecords.scan(file, tf.io.gfile.stat(path).length)
    if cut_off is not None:
        raise UserError(f"{path}: cut off at byte {cut_off}: write the file again")


def _check_members(source: seqio.FileDataSource, path: str) -> None:
    """Checks that a gzip file is whole, and that a reader comes to its end."""
    if not _has_empty_part(path):
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, os.path.basename(path))
        with storage.opened(path, "rb") as plain, gzip.open(plain) as before:
            with gzip.open(copy, "wb", compresslevel=1) as after:
                while block := before.read(_BLOCK):
                    after.write(block)
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
    raise UserError(
        f"{path}: {told} at an empty member of a gzip file, or at zeros that fill one up: write it "
        "anew, such as with zcat FILE | gzip > NEW"
    )


def _has_empty_part(path: str) -> bool:
    """Whether a member of a gzip file, but the last, is empty, or zeros fill the file up.

    Raises:
      UserError: the file is damaged.
    """
    member, has_content, after_empty, found = None, False, False, False
    for block in _blocks(path):
        while block:
            # Zeros may fill a file up to its last block.
            if member is None and not block.strip(b"\0"):
                found = True
                break
            if member is None:
                member, has_content, found = (
                    zlib.decompressobj(wbits=31),
                    False,
                    found | after_empty,
                )
            try:
                has_content |= bool(member.decompress(block))
            except zlib.error as error:
                raise UserError(f"{path}: damaged gzip file ({error}); write it again") from error
            block = member.unused_data
            if member.eof:
                member, after_empty = None, not has_content
    if member is not None:
        raise UserError(f"{path}: a gzip file that is cut off; write it again")
    return found


def _blocks(path: str) -> Iterator[bytes]:
    if storage.is_remote(path):
        with storage.opened(path, "rb") as file:
            yield from iter(lambda: file.read(_BLOCK), b"")
        return
    with open(path, "rb") as file:
        yield from iter(lambda: file.read(_BLOCK), b"")


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


def _reads_lines(source: seqio.FileDataSource, path: str) -> bool:
    """Whether the records of a file are its lines."""
    if isinstance(source, seqio.TextLineDataSource):
        return True
    records = source._reader(path)
    if records.element_spec != tf.TensorSpec([], tf.string):
        return False
    try:
        first = next(records.take(1).as_numpy_iterator(), None)
    except tf.errors.OpError:
        return False
    lines = itertools.islice(_lines(path), _FIRST_LINES)
    return first in [line.replace(b"\r", b"").removesuffix(b"\n") for line in lines]


def _lines(path: str) -> Iterator[bytes]:
    rest = b""
    for block in _blocks(path):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _check_carriage_returns(path: str) -> None:
    inside = [n for n, line in enumerate(_lines(path), 1) if b"\r" in line.rstrip(b"\r")]
    if not inside:
        return
    what = "a carriage return inside, which TensorFlow's reader drops, so that two words become one"
    if bad_data() == "skip":
        told = f"{path}: {len(inside):,} lines have {what} (BAD_DATA='skip')"
        runtime.tell(f"{told}, the first: {inside[0]}")
        return
    raise UserError(
        f"{path}:{inside[0]}: {what}: end lines in \\n or \\r\\n, such as by "
        "tr '\\r' '\\n' < FILE > NEW, or set BAD_DATA='skip'"
    )
