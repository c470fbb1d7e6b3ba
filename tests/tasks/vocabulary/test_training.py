import functools

import gin
import pytest
import seqio
import tensorflow as tf
from t5.data import preprocessors as t5_preprocessors

from switch_tf.errors import UserError
from switch_tf.tasks import local_text, super_glue  # noqa: F401 - registers its tasks
from switch_tf.tasks.sources import local_files
from switch_tf.tasks.vocabulary import t5, training
from switch_tf.tasks.vocabulary.t5 import T5_OUTPUT_FEATURES
from tests.tasks.official_files import set_macros

TEXTS = [f"the red cat {i} and the blue dog go to green hills" for i in range(40)]
LOCAL = seqio.TaskRegistry.get(local_text.TASK)


@pytest.fixture
def folder(tmp_path):
    """Two files of text, which gin names, and a path for the vocabulary."""
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:30]))
    (tmp_path / "b.txt").write_text("\n\n".join(TEXTS[30:]))
    with gin.unlock_config():
        gin.bind_parameter("local_text.train", f"{tmp_path}/*.txt")
    set_macros(VOCABULARY_PATH=f"{tmp_path}/new/vocabulary.model")
    yield tmp_path
    gin.clear_config()


@pytest.fixture
def sampled(monkeypatch):
    """Trains nothing; returns the texts that a vocabulary would be trained on."""
    given = []
    monkeypatch.setattr(t5, "train", lambda texts, path, size, **_: given.extend(texts))

    def sample(provider):
        given.clear()
        training.train(provider, 40)
        return list(given)

    return sample


def prefixed(dataset, prefix):
    return dataset.map(lambda example: example | {"inputs": prefix + example["inputs"]})


def task(name, steps, features=T5_OUTPUT_FEATURES, splits=("train", "validation")):
    def read(split, shuffle_files, seed=None):
        columns = {"question": [f"{split} {i}" for i in range(3)], "answer": ["yes", "no", "é"]}
        return tf.data.Dataset.from_tensor_slices(columns)

    source = seqio.FunctionDataSource(read, list(splits))
    return seqio.Task(name, source, features, steps)


REKEY = functools.partial(
    t5_preprocessors.rekey, key_map={"inputs": "question", "targets": "answer", "id": "answer"}
)
TOKENIZE = functools.partial(functools.partial(seqio.preprocessors.tokenize, with_eos=True))


def test_a_trained_vocabulary_is_written_where_gin_says_and_used(folder):
    path = folder / "new" / "vocabulary.model"
    assert training.train(LOCAL, 34)[0] == path
    found = LOCAL.output_features["targets"].vocabulary
    assert found.sentencepiece_model_file == str(path) and found.vocab_size == 134
    assert found.decode(found.encode("the red cat")) == "the red cat"


def test_text_is_what_the_task_would_tokenise(folder, sampled):
    steps = [
        REKEY,
        functools.partial(prefixed, prefix="ask: "),
        seqio.CacheDatasetPlaceholder(),
        TOKENIZE,
        seqio.preprocessors.append_eos,
    ]
    expected = ["ask: train 0", "yes", "ask: train 1", "no", "ask: train 2", "é"]
    assert sampled(task("own", steps)) == expected


def test_the_start_of_each_file_is_read(folder, sampled, monkeypatch):
    monkeypatch.setattr(t5, "TRAINING_CHARACTERS", 140)
    (first, second), third = TEXTS[:2], TEXTS[30]
    left = 140 // 2 + 1
    assert sampled(LOCAL) == [
        *(first, second[: left - len(first)]),
        *(third, TEXTS[31][: left - len(third)]),
    ]


def test_of_very_many_files_evenly_spread_ones_are_read(folder, sampled, monkeypatch):
    monkeypatch.setattr(training, "MAX_FILES", 2)
    for name in "cde":
        (folder / f"{name}.txt").write_text(f"only {name}")
    assert sampled(LOCAL) == [*TEXTS[:30], "only d"]


def test_a_mixture_shares_the_characters_among_its_tasks_that_train(folder, sampled, monkeypatch):
    monkeypatch.setattr(t5, "TRAINING_CHARACTERS", 20)
    steps = [REKEY, TOKENIZE]
    parts = [task("a", steps), task("b", steps, splits=["train"]), task("c", steps, splits=["dev"])]
    for part in parts:
        seqio.TaskRegistry.add_provider(part.name, part)
    try:
        mixture = seqio.Mixture("ab", [(part.name, 1.0) for part in parts])
        assert sampled(mixture) == ["train 0", "yes", "t"] * 2
    finally:
        for part in parts:
            seqio.TaskRegistry.remove(part.name)


def test_tasks_of_official_files_train_one(official, sampled, tmp_path):
    set_macros(VOCABULARY_PATH=str(tmp_path / "v.model"))
    texts = sampled(seqio.get_mixture_or_task("super_glue"))
    assert "wsc: The dog saw a cat and *it* barked." in texts
    assert any(text.startswith("boolq passage: ") for text in texts)


def test_without_a_step_that_tokenises_is_one_line(folder):
    with pytest.raises(UserError) as raised:
        training.train(task("own", [REKEY]), 40)
    assert str(raised.value) == (
        "task 'own' has no seqio.preprocessors.tokenize among its preprocessors, so the text to "
        "train a vocabulary on is unknown"
    )


@pytest.mark.parametrize(
    "name, features, kind",
    [
        (
            "own",
            {"inputs": seqio.Feature(seqio.ByteVocabulary())},
            "task 'own' has its own vocabulary for 'inputs', a ByteVocabulary",
        ),
        (
            "docs",
            {"inputs": seqio.Feature(seqio.SentencePieceVocabulary("fixed.model"))},
            "task 'docs' has its own vocabulary for 'inputs', a SentencePieceVocabulary",
        ),
    ],
)
def test_a_vocabulary_of_the_tasks_own_is_one_line(folder, name, features, kind):
    with pytest.raises(UserError) as raised:
        training.train(task(name, [REKEY, TOKENIZE], features), 40)
    assert str(raised.value) == (
        f"{kind}, so none can be trained for it; give it the features "
        "switch_tf.tasks.vocabulary.t5.T5_OUTPUT_FEATURES"
    )


def test_without_a_train_split_or_files_is_one_line(folder):
    with pytest.raises(UserError, match="^'own' has no split 'train' to train a vocabulary on$"):
        training.train(task("own", [REKEY, TOKENIZE], splits=["dev"]), 40)
    for name in ("no.tsv", "*.tsv"):
        lines = seqio.TextLineDataSource({"train": f"{folder}/{name}"})
        parse = functools.partial(t5_preprocessors.parse_tsv, field_names=["inputs", "targets"])
        own = seqio.Task("own", lines, T5_OUTPUT_FEATURES, [parse, TOKENIZE])
        with pytest.raises(UserError) as raised:
            training.train(own, 40)
        assert str(raised.value) == f"no file for the split 'train' of task 'own': {folder}/{name}"


@pytest.mark.parametrize(
    "size, path, message",
    [
        (0, "new.model", "a vocabulary cannot have 0 pieces: give a number, such as 8000"),
        (-1, "new.model", "a vocabulary cannot have -1 pieces: give a number, such as 8000"),
        (
            40,
            None,
            "VOCABULARY_PATH is not set: give --gin.VOCABULARY_PATH=\"'PATH'\", the path to write "
            "the vocabulary to",
        ),
        (40, "a.txt", "VOCABULARY_PATH='{}' already exists: give another path, or remove it"),
        (34, "a.txt/new.model", "VOCABULARY_PATH='{}' cannot be written: File exists"),
    ],
)
def test_a_vocabulary_that_cannot_be_trained_is_one_line(folder, size, path, message):
    path = path and f"{folder}/{path}"
    set_macros(VOCABULARY_PATH=path)
    before = sorted(folder.iterdir())
    with pytest.raises(UserError) as raised:
        training.train(LOCAL, size)
    assert str(raised.value) == message.format(path)
    assert sorted(folder.iterdir()) == before


def test_an_address_is_no_place_to_write_to(folder):
    set_macros(VOCABULARY_PATH="gs://bucket/v.model")
    with pytest.raises(UserError, match="gs://bucket/v.model': give a local path; this one"):
        training.train(LOCAL, 40)


def test_a_vocabulary_of_too_many_pieces_writes_nothing(folder):
    with pytest.raises(
        UserError, match=r"cannot make a vocabulary of 4000 pieces .*use at most \d+"
    ):
        training.train(LOCAL, 4000)
    assert not (folder / "new" / "vocabulary.model").exists()


def test_a_bad_line_is_named_by_file_and_line(folder, monkeypatch):
    monkeypatch.setattr(local_files, "CHECKED_BYTES", 0)
    monkeypatch.setattr(local_files, "CHECKED_DOCUMENTS", 1)
    (folder / "c.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with gin.unlock_config():
        gin.bind_parameter("local_text.train", f"{folder}/c.jsonl")
    with pytest.raises(UserError, match=r"c.jsonl:2: not JSON: .*; fix or remove the line$"):
        training.train(LOCAL, 4)


@pytest.mark.parametrize("bad_data", ["stop", "skip"])
def test_a_row_that_the_task_refuses_is_named_or_left_out(tmp_path, sampled, capsys, bad_data):
    """Also where there is no vocabulary yet, without which the whole task cannot be tried."""
    (tmp_path / "a.tsv").write_text("one\ttwo\nno tab\nthree\tfour\n")
    set_macros(VOCABULARY_PATH=f"{tmp_path}/new.model", BAD_DATA=bad_data)
    parse = functools.partial(t5_preprocessors.parse_tsv, field_names=["inputs", "targets"])
    source = seqio.TextLineDataSource({"train": f"{tmp_path}/a.tsv"})
    own = seqio.Task("own", source, T5_OUTPUT_FEATURES, [parse, TOKENIZE])
    where = f"'own', split 'train': {tmp_path}/a.tsv:2: 'no tab': Expect 2 fields but have 1"
    try:
        if bad_data == "skip":
            assert sampled(own) == ["one", "two", "three", "four"]
            skipped = "'own', split 'train': 1 records skipped (BAD_DATA='skip'), the first: "
            assert where.replace("'own', split 'train': ", skipped) in capsys.readouterr().out
            return
        with pytest.raises(UserError) as told:
            sampled(own)
        mend = "fix or remove the record, or change the task's preprocessors"
        assert str(told.value) == f"{where}: {mend}"
    finally:
        gin.clear_config()
