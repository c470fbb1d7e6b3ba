import numpy as np
import pytest
import sentencepiece

from switch_tf.data import dropped
from switch_tf.tasks.vocabulary import t5


@pytest.fixture(scope="module")
def normalize(tmp_path_factory):
    """The normalisation of a vocabulary that is trained here."""
    path = tmp_path_factory.mktemp("vocabulary") / "a.model"
    t5.train(["ab ba aab bba"] * 9, path, 8)
    return sentencepiece.SentencePieceProcessor(model_file=str(path)).normalize


def test_what_counts_is_what_a_vocabulary_drops_so_that_two_words_become_one(normalize):
    letters = [chr(code) for code in range(1, 0x3000)]
    lost = [letter for letter in letters if normalize(f"a{letter}b") == normalize("ab")]
    assert len(lost) == 30
    assert [letter for letter in letters if dropped.in_text(letter)] == lost
    assert [letter for letter in letters if dropped.in_bytes(letter.encode())] == lost
    assert dropped.in_bytes("".join(letters).encode()) == 30


def test_texts_are_found_in_any_value():
    example = {"a": ["\x01", b"\xc2\x9f"], "b": {"c": np.array(["\v", "d"], object)}, "e": 1}
    assert dropped.in_value(example | {"f": np.array([1, 2])}) == 3
