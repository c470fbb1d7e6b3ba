"""What the reader of a SeqIO source reads, as far as its dataset shows it."""

from __future__ import annotations

import glob
import gzip
import zlib
from typing import IO, NamedTuple

from switch_tf import storage
from switch_tf.data import tfrecords

PLAIN, GZIP, ZLIB = "", "GZIP", "ZLIB"
LINES, RECORDS, OTHERS = "lines", "records", "others"
# What both kinds of compression begin with: two bytes each, of which ZLIB's also make a multiple of
# 31.
_GZIP_MARK = b"\x1f\x8b"
_ZLIB_METHOD, _ZLIB_MULTIPLE = 8, 31
# Bytes of a file that tell how it is compressed.
_START = 1 << 12

# TensorFlow's readers, and its datasets that give one element for each that they take.
_KINDS = {
    "TextLineDatasetV2": LINES,
    "TFRecordDatasetV2": RECORDS,
    "CsvDatasetV2": OTHERS,
    "FixedLengthRecordDatasetV2": OTHERS,
}
_ONE_EACH = {
    "_AssertCardinalityDataset",
    "_MapDataset",
    "_OptionsDataset",
    "_ParallelMapDataset",
    "_PrefetchDataset",
}


class Reader(NamedTuple):
    """How TensorFlow reads a file.

    Attributes:
      kind: LINES, RECORDS, of which TFRecord files consist, or OTHERS; None if it is not known.
      compression: PLAIN, GZIP or ZLIB; None if it is not known.
      skipped: number of first lines or records that are not read; None if it is not known which of
        them are read.
    """

    kind: str | None = None
    compression: str | None = None
    skipped: int | None = None

    def read_of(self, number: int) -> int | None:
        """How many of so many lines or records are read; None if it is not known."""
        return None if self.skipped is None else max(number - self.skipped, 0)


def of(dataset) -> Reader:
    """What a dataset reads, which the reader of a source has made of a file.

    A reader that is behind other datasets than these is not seen, such as one inside of a function.
    """
    skipped, shows_all = 0, True
    *others, reader = _down(dataset)
    if reader is None:
        return Reader()
    for other in others:
        name = type(other).__name__
        if name == "_SkipDataset":
            skipped += int(other._count)
        elif name not in _ONE_EACH:
            shows_all = False
    compression = reader._compression_type
    if hasattr(compression, "numpy"):
        compression = compression.numpy().decode()
    kind = _KINDS[type(reader).__name__]
    return Reader(kind, compression or PLAIN, skipped if shows_all else None)


def _down(dataset) -> list:
    """A dataset, those that it reads in turn, and the reader of files; None if it is not seen."""
    found = [dataset]
    while type(found[-1]).__name__ not in _KINDS:
        inputs = found[-1]._inputs()
        if len(inputs) != 1:
            return [*found, None]
        found.append(inputs[0])
    return found


def source_of_files(dataset, split: str):
    """A `seqio.FileDataSource` of the files that a dataset reads, such as that of a function.

    Args:
      dataset: the dataset.
      split: the source's split.

    Returns:
      None if no reader of lines or records is seen; see `of`.
    """
    import seqio
    import tensorflow as tf

    reader, found = _down(dataset)[-1], of(dataset)
    kinds = {LINES: tf.data.TextLineDataset, RECORDS: tf.data.TFRecordDataset}
    if found.kind not in kinds:
        return None
    names = (name.decode() for name in reader._filenames.as_numpy_iterator())
    # SeqIO takes names for patterns.
    files = [glob.escape(name) for name in names]
    return seqio.FileDataSource(
        lambda path: kinds[found.kind](path, found.compression), {split: files}
    )


def of_source(source, path: str) -> Reader:
    """What the reader of a `seqio.FileDataSource` reads of a file."""
    try:
        return of(source._reader(path))
    except Exception:
        # A user's own reader may need what only a pipeline gives. A run will tell.
        return Reader()


def compression_of(path: str) -> str:
    """How a file is compressed, by its first bytes: PLAIN, GZIP or ZLIB."""
    with storage.opened(path, "rb") as file:
        start = file.read(_START)
    if start.startswith(_GZIP_MARK):
        return GZIP
    return ZLIB if _is_zlib(start) else PLAIN


def has_records(path: str, compression: str) -> bool:
    """Whether a file begins as a TFRecord file does; False if it is damaged."""
    try:
        with storage.opened(path, "rb") as file:
            return tfrecords.is_header(_first_content(file, compression))
    except (EOFError, zlib.error, *storage.errors()):
        return False


def _first_content(file: IO[bytes], compression: str) -> bytes:
    if compression == GZIP:
        return gzip.open(file).read(tfrecords.HEADER)
    if compression == ZLIB:
        return zlib.decompressobj().decompress(file.read(_START), tfrecords.HEADER)
    return file.read(tfrecords.HEADER)


def _is_zlib(start: bytes) -> bool:
    """Whether these bytes begin a ZLIB stream: two that text may begin with, and what unpacks."""
    if len(start) < 2 or start[0] % 16 != _ZLIB_METHOD:
        return False
    if int.from_bytes(start[:2], "big") % _ZLIB_MULTIPLE:
        return False
    stream = zlib.decompressobj()
    try:
        return bool(stream.decompress(start, tfrecords.HEADER)) or stream.eof
    except zlib.error:
        return False
