"""Control characters, which the normalisation of SentencePiece drops as if they were not there."""

import copy
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_BYTES = bytes([*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F])
# In UTF-8, U+008F and U+009F.
_PAIRS = (b"\xc2\x8f", b"\xc2\x9f")
_CHARACTERS = re.compile("[\x01-\x08\v\x0e-\x1f\x7f\x8f\x9f]")

# What was told of.
_told: set[str] = set()


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
    if isinstance(value, np.ndarray):
        return sum(map(in_value, value.ravel())) if value.dtype == object else 0
    if isinstance(value, list | tuple):
        return sum(map(in_value, value))
    return 0


def was_told(where: str) -> bool:
    """Whether this process has told of a file that it has some."""
    return where in _told


def told(where: str, number: int) -> str:
    """A line that says how many there are in a file, or in what else is read."""
    _told.add(where)
    what, whose = ("characters", "their") if number > 1 else ("character", "its")
    return (
        f"{where}: {number:,} control {what}, such as U+0001 or U+007F, which vocabularies drop "
        f"without a blank in {whose} place"
    )


class Noted:
    """Counts the control characters in what a task's vocabularies encode.

    Args:
      task: a `seqio.Task`.

    Attributes:
      task: the same task, whose vocabularies count.
      number: how many were found so far, by those vocabularies that drop them.
    """

    def __init__(self, task):
        import seqio

        self.number = 0
        features = {
            name: dataclasses.replace(feature, vocabulary=self._counting(feature.vocabulary))
            if _drops(feature.vocabulary)
            else feature
            for name, feature in task.output_features.items()
        }
        self.task = seqio.Task(task.name, task.source, features, task.preprocessors)

    def _counting(self, vocabulary):
        import tensorflow as tf

        # Vocabularies are compared, so the copy has the class of the other.
        counting = copy.copy(vocabulary)

        def encode_tf(text):
            tf.numpy_function(self._note, [getattr(text, "flat_values", text)], [])
            return vocabulary.encode_tf(text)

        counting.encode_tf = encode_tf
        return counting

    def _note(self, texts) -> None:
        self.number += in_value(texts)


def _drops(vocabulary) -> bool:
    """Whether a vocabulary drops control characters; one that can be told not to is asked."""
    import seqio

    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return False
    normalize = vocabulary.tokenizer.normalize
    return normalize("a\x01b") == normalize("ab")
