"""The form of TFRecord files, whose end TensorFlow's reader does not check."""

from typing import IO

import google_crc32c
import numpy as np

# A record: length (8 bytes) and its checksum (4), then the content and its checksum (4).
HEADER, FOOTER = 12, 4
_MASK = 0xA282EAD8


def checksum(content: bytes) -> bytes:
    """The checksum of TFRecords, a rotated and shifted CRC-32C."""
    crc = google_crc32c.value(content)
    return ((((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF).to_bytes(4, "little")


def is_header(header: bytes) -> bool:
    """Whether these bytes begin a record."""
    return len(header) == HEADER and checksum(header[:8]) == header[8:]


def scan(stream: IO[bytes], size: int) -> tuple[np.ndarray, int | None]:
    """Finds the records of a file from their lengths alone.

    Args:
      stream: the file.
      size: its size in bytes.

    Returns:
      The offset of each whole record, and that of one which is cut off, if there is one.
    """
    offsets, place = [], 0
    while place < size:
        stream.seek(place)
        header = stream.read(HEADER)
        length = int.from_bytes(header[:8], "little") if len(header) == HEADER else size
        if place + HEADER + length + FOOTER > size:
            return np.array(offsets, np.int64), place
        offsets.append(place)
        place += HEADER + length + FOOTER
    return np.array(offsets, np.int64), None
