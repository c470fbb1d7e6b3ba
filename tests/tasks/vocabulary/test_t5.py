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


@pytest.mark.parametrize("kept", [100, 40])
def test_sentinels_of_a_model_that_are_not_its_last_pieces_are_told_with_a_mend(tmp_path, kept):
    t5.train(TEXTS, tmp_path / "plain", 24)
    path = with_sentinels(tmp_path / "plain")
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    # From the first on, where T5 has them from the last.
    first = list(reversed(model.pieces[24:]))[:kept]
    del model.pieces[24:]
    model.pieces.extend(first)
    path.write_bytes(model.SerializeToString())
    told = (
        "has 0 sentinels at its end, but span corruption needs 100: its model holds sentinels, of "
        "which span corruption needs <extra_id_99> to <extra_id_0> as the last pieces: give a "
        "model with these, or without any, to which 100 are added"
    )
    for vocabulary in (
        t5.LazyVocabulary(lambda: str(path)),
        seqio.SentencePieceVocabulary(str(path), extra_ids=0),
    ):
        with pytest.raises(UserError, match=told):
            features.check_vocabulary(corrupts_spans(vocabulary), 300)


def test_characters_without_a_piece_are_counted(tmp_path):
    texts = [*TEXTS, "é Ж Ж Ж Ā Ā"]
    lacking = t5.train(texts, tmp_path / "few", 24, character_coverage=0.98)
    assert lacking.characters == {"é": 1, "Ā": 2}
    assert lacking.of == sum(len("".join(text.split())) for text in texts)
    line = lacking.line(0.98)
    assert line.startswith(f"3 of {lacking.of:,} characters of the text (")
    assert line.endswith(
        ") have no piece and are read as unknown, 2 different ones, most often Ā é: to "
        "give more of them a piece, raise --character_coverage=0.98, up to 1"
    )
    full = t5.train(texts, tmp_path / "full", 28, character_coverage=1.0)
    told = f"all {full.of:,} characters of the text that are not blank have a piece"
    assert full.line(1.0) == told
    with pytest.raises(UserError, match="texts: give at least .* pieces, or lower --character_cov"):
        t5.train(texts, tmp_path / "none", 8, character_coverage=1.0)


def test_a_vocabulary_may_keep_line_breaks_and_indentation(tmp_path):
    code = "def f(x):\n    if x:\n        return  x\n\n\ty = ﬁ\r\n"
    texts = [code, *TEXTS]
    t5.train(texts, tmp_path / "kept", 40, character_coverage=1.0, normalization="identity")
    kept = seqio.SentencePieceVocabulary(str(tmp_path / "kept"), extra_ids=100)
    assert kept.decode(kept.encode(code)) == code
    # As a task tokenises.
    assert kept.encode_tf(code).numpy().tolist() == kept.encode(code)
    t5.train(texts, tmp_path / "plain", 32, character_coverage=1.0)
    plain = seqio.SentencePieceVocabulary(str(tmp_path / "plain"), extra_ids=100)
    assert plain.decode(plain.encode(code)) == "def f(x): if x: return x y = fi"


def test_sentinels_added_to_those_of_a_model_are_told(tmp_path):
    t5.train(TEXTS, tmp_path / "plain", 24)
    twice = seqio.SentencePieceVocabulary(str(with_sentinels(tmp_path / "plain")), extra_ids=100)
    with pytest.raises(UserError, match="if its model contains the sentinels, give it extra_ids=0"):
        features.check_vocabulary(corrupts_spans(twice), 300)
