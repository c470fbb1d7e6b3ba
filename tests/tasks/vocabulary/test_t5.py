import multiprocessing

import gin
import pytest
import seqio
from sentencepiece import sentencepiece_model_pb2
from t5.data import preprocessors

from switch_tf.data import features
from switch_tf.errors import UserError
from switch_tf.tasks.vocabulary import t5, unigram
from tests.tasks.official_files import set_macros

TEXTS = [
    f"the {a} of a {b} goes {a}{b}" for a in "red blue green".split() for b in "cat dog".split()
]


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def test_ids_are_those_of_t5_and_the_same_texts_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        t5.train(TEXTS, tmp_path / name, 20)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = t5.LazyVocabulary(lambda: str(tmp_path / "a"))
    assert (found.pad_id, found.eos_id, found.unk_id) == (0, 1, 2)
    assert found.vocab_size == 120
    assert found.decode(found.encode("the red cat")) == "the red cat"
    assert found.decode([119]) == "<extra_id_0>"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_too_little_text_is_one_line_with_the_largest_size(tmp_path):
    with pytest.raises(
        UserError, match=r"cannot make a vocabulary of 5000 pieces .*use at most \d+"
    ):
        t5.train(TEXTS, tmp_path / "v", 5000)
    assert not (tmp_path / "v").exists()


def test_much_text_is_trained_on_in_another_process_to_the_same_pieces(
    tmp_path, capsys, monkeypatch
):
    """Which ends with this one, whatever it meets."""
    t5.train(TEXTS, tmp_path / "here", 20)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(unigram, "_FEW_CHARACTERS", 0)
    t5.train(TEXTS, tmp_path / "there", 20)
    assert capsys.readouterr().err.startswith("training a vocabulary of 20 pieces\n")
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
    with pytest.raises(UserError, match=r"cannot make a vocabulary of 5000 .*use at most \d+"):
        t5.train(TEXTS, tmp_path / "v", 5000)
    monkeypatch.setattr(unigram, "_send", len)
    with pytest.raises(UserError, match="ended with status 1: it may have had too little memory"):
        t5.train(TEXTS, tmp_path / "v", 20)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("size", [20, 5000])
def test_an_error_of_the_texts_writes_nothing(tmp_path, size):
    def texts():
        yield from TEXTS
        raise UserError("a bad line")

    with pytest.raises(UserError, match="^a bad line$"):
        t5.train(texts(), tmp_path / "v", size)
    assert not (tmp_path / "v").exists()


def test_the_model_is_found_when_first_used_and_again_when_it_changes(tmp_path):
    for size in (20, 24):
        t5.train(TEXTS, tmp_path / str(size), size)
    asked = []

    def find():
        asked.append(1)
        return str(tmp_path / name)

    found = t5.LazyVocabulary(find)
    assert not asked
    name = "20"
    assert found.vocab_size == 120
    name = "24"
    assert found.vocab_size == 124


def test_vocabulary_path_names_the_model_of_every_task(tmp_path):
    for size in (20, 24):
        t5.train(TEXTS, tmp_path / str(size), size)
    found = t5.LazyVocabulary(lambda: str(tmp_path / "20"))
    assert found.vocab_size == 120
    set_macros(VOCABULARY_PATH=str(tmp_path / "24"))
    assert found.vocab_size == 124
    assert found.sentencepiece_model_file == str(tmp_path / "24")
    set_macros(VOCABULARY_PATH=str(tmp_path / "gone"))
    with pytest.raises(UserError, match="/gone': no such file; set VOCABULARY_PATH to a copy"):
        found.load_model()


def with_sentinels(path):
    """The model of a path with 100 sentinels as its last pieces, as T5X's file has them."""
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    for i in reversed(range(100)):
        kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
        model.pieces.add(piece=f"\u2581<extra_id_{i}>", score=0.0, type=kind)
    own = path.with_suffix(".100extra")
    own.write_bytes(model.SerializeToString())
    return own


def corrupts_spans(of):
    """A task that needs sentinels, with a vocabulary."""
    source = seqio.TextLineDataSource({"train": "not read"})
    both = {name: seqio.Feature(of) for name in ("inputs", "targets")}
    return seqio.Task("corrupts_spans", source, both, [preprocessors.span_corruption])


def test_a_model_that_holds_sentinels_gets_no_further_ones(tmp_path):
    t5.train(TEXTS, tmp_path / "plain", 24)
    plain = t5.LazyVocabulary(lambda: str(tmp_path / "plain"))
    own = t5.LazyVocabulary(lambda: str(with_sentinels(tmp_path / "plain")))
    assert (plain.extra_ids, own.extra_ids) == (100, 0)
    assert plain.vocab_size == own.vocab_size == 124
    text = "<extra_id_0> a <extra_id_99>"
    assert plain.encode(text) == own.encode(text)
    assert {123, 24} <= set(own.encode(text))
    features.check_vocabulary(corrupts_spans(own), 124)


def test_sentinels_added_to_those_of_a_model_are_told(tmp_path):
    t5.train(TEXTS, tmp_path / "plain", 24)
    twice = seqio.SentencePieceVocabulary(str(with_sentinels(tmp_path / "plain")), extra_ids=100)
    with pytest.raises(UserError, match="if its model contains the sentinels, give it extra_ids=0"):
        features.check_vocabulary(corrupts_spans(twice), 300)
