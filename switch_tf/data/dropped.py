"""Control characters, which the normalisation of SentencePiece drops as if they were not there."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_BYTES = bytes([*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F])
# In UTF-8, U+008F and U+009F.
_PAIRS = (b"\xc2\x8f", b"\xc2\x9f")
_CHARACTERS = re.compile("[\x01-\x08\v\x0e-\x1f\x7f\x8f\x9f]")


def in_text(text: str) -> int:
    """Number of control characters in a text."""
    return len(_CHARACTERS.findall(text))


def in_bytes(text: bytes) -> int:
    """Number of control characters in a text in UTF-8."""
    return len(text) - len(text.translate(None, _BYTES)) + sum(map(text.count, _PAIRS))


def in_value(value: Any) -> int:
    """Number of control characters in all texts of a value, such as an example."""
    if isinstance(value, str):
        return in_text(value)
    if isinstance(value, bytes):
        return in_bytes(value)
    if isinstance(value, Mapping):
        return sum(map(in_value, value.values()))
    if isinstance(value, list | tuple) or isinstance(value, np.ndarray) and value.dtype == object:
        return sum(map(in_value, value))
    return 0


def told(where: str, number: int) -> str:
    """A line that says how many there are."""
    return (
        f"{where}: {number:,} control characters, such as U+0001 or U+007F, which vocabularies "
        "drop without a blank in their place"
    )
