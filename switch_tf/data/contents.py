"""Looks through the content of a file, compressed or not, for what TensorFlow's readers lose."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from switch_tf import storage
from switch_tf.data import dropped, tfrecords
from switch_tf.data.readers import GZIP, PLAIN, ZLIB
from switch_tf.errors import UserError

_BLOCK = 1 << 20
_WBITS = {GZIP: 31, ZLIB: 15}
_NAMES = {GZIP: "gzip file", ZLIB: "ZLIB stream"}


class Content:
    """The content of a file, uncompressed, in blocks.

    Args:
      path: the file.
      compression: `readers.PLAIN`, GZIP or ZLIB.

    Attributes:
      compression: the argument.
      is_parted: once all blocks are read, whether there is content at a place behind which
        TensorFlow's readers may end: an empty member of a gzip file, the end of a first ZLIB
        stream, or zeros that fill up the file.
    """

    def __init__(self, path: str, compression: str):
        self._path, self.compression = path, compression
        self.is_parted = False

    def blocks(self) -> Iterator[bytes]:
        """Yields the content.

        Raises:
          UserError: the file is damaged, or cut off.
        """
        if self.compression == PLAIN:
            yield from _stored(self._path)
            return
        name = _NAMES[self.compression]
        # What is unpacked, whether it had content, and whether the next one is lost.
        member, has_content, is_end, is_begun = None, False, False, False
        for block in _stored(self._path):
            while block:
                # Zeros may fill a file up to its last block, but not be all that it has.
                if member is None and is_begun and not block.strip(b"\0"):
                    self.is_parted = True
                    break
                if member is None:
                    member, is_begun = zlib.decompressobj(wbits=_WBITS[self.compression]), True
                    has_content, self.is_parted = False, self.is_parted or is_end
                try:
                    unpacked = member.decompress(block)
                except zlib.error as error:
                    raise UserError(
                        f"{self._path}: damaged {name} ({error}); write it again"
                    ) from error
                if unpacked:
                    has_content = True
                    yield unpacked
                block = member.unused_data
                if member.eof:
                    member, is_end = None, self.compression == ZLIB or not has_content
        if member is not None:
            raise UserError(f"{self._path}: a {name} that is cut off; write it again")

    def pack(self, copy: str) -> None:
        """Writes the content to another file, in one part, compressed in the same way."""
        packed = zlib.compressobj(1, wbits=_WBITS[self.compression])
        with open(copy, "wb") as file:
            for block in self.blocks():
                file.write(packed.compress(block))
            file.write(packed.flush())


def _stored(path: str) -> Iterator[bytes]:
    if storage.is_remote(path):
        with storage.opened(path, "rb") as file:
            yield from iter(lambda: file.read(_BLOCK), b"")
        return
    with open(path, "rb") as file:
        yield from iter(lambda: file.read(_BLOCK), b"")


class Lines:
    """Counts lines as TensorFlow's reader parts them.

    Attributes:
      count: number of lines.
      inside: the numbers of lines that have carriage returns inside.
      dropped: number of control characters that vocabularies drop.
    """

    def __init__(self):
        self.count, self.dropped = 0, 0
        self.inside: list[int] = []
        # The pieces of a line that goes on.
        self._rest: list[bytes] = []

    def add(self, block: bytes) -> None:
        """Takes the next bytes."""
        begun, end, rest = block.rpartition(b"\n")
        if end:
            self._take(b"".join([*self._rest, begun, end]))
            self._rest = []
        self._rest.append(rest)

    def end(self) -> None:
        """Takes the last line, which has no end."""
        last = b"".join(self._rest)
        if last.replace(b"\r", b""):
            self._take(last + b"\n")

    def _take(self, lines: bytes) -> None:
        if b"\r" in lines:
            each = enumerate(lines.removesuffix(b"\n").split(b"\n"), self.count + 1)
            self.inside += [number for number, line in each if b"\r" in line.rstrip(b"\r")]
        self.count += lines.count(b"\n")
        self.dropped += dropped.in_bytes(lines)


def lines_of(content: Content) -> Lines:
    """Looks through the lines of a content.

    Raises:
      UserError: see `Content.blocks`.
    """
    found = Lines()
    for block in content.blocks():
        found.add(block)
    found.end()
    return found


def records_of(content: Content) -> tuple[int, int | None]:
    """Number of whole records in a content, and the offset of one that is cut off, or None.

    Raises:
      UserError: see `Content.blocks`.
    """
    # Of the record that goes on: its offset, its header so far, and what of it is to come.
    count, begin, header, left = 0, 0, b"", 0
    for block in content.blocks():
        place = 0
        while place < len(block):
            if len(header) < tfrecords.HEADER:
                part = block[place : place + tfrecords.HEADER - len(header)]
                header, place = header + part, place + len(part)
                left = int.from_bytes(header[:8], "little") + tfrecords.FOOTER
                continue
            step = min(left, len(block) - place)
            left, place = left - step, place + step
            if not left:
                begin += tfrecords.HEADER + int.from_bytes(header[:8], "little") + tfrecords.FOOTER
                count, header = count + 1, b""
    return count, begin if header else None
