import gzip
import json
import re

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.data import features, registry
from switch_tf.errors import UserError
from tasks import local_files, local_text, vocabulary

TASK = seqio.TaskRegistry.get("local_text_span_corruption")
LENGTHS = {"inputs": 32, "targets": 8}
# Every kind of blank and of line end, a byte order mark, and letters of one to four bytes.
LETTERS = "ab \n\n\n\r\t\v\f\x1c\x85\xa0\u2028\u3000\ufeffé\U0001f600"
MISSING = (
    "; to train one: switch-tf tasks local_text_span_corruption --train_vocabulary=8000 "
    "--gin.local_text.train=\"'FILES'\" --gin.local_text.vocabulary=\"'PATH'\""
)


def configure(**values):
    with gin.unlock_config():
        for name, value in values.items():
            gin.bind_parameter(f"local_text.{name}", value)


@pytest.fixture(autouse=True)
def _forget_gin():
    yield
    gin.clear_config()


def texts(start, stop):
    return [f"the red cat {i} and the blue dog go to green hills" for i in range(start, stop)]


@pytest.fixture
def folder(tmp_path):
    """Train and validation files of every kind, which gin names, and no vocabulary."""
    (tmp_path / "train" / "more").mkdir(parents=True)
    lines = "".join(json.dumps({"text": text, "url": "u"}) + "\n" for text in texts(40, 80))
    (tmp_path / "train" / "a.txt").write_text("\n\n".join(texts(0, 40)))
    (tmp_path / "train" / "b.json.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "train" / "more" / "c.jsonl").write_text(lines.replace("cat", "CAT"))
    packed = gzip.compress("\n\n".join(texts(80, 120)).encode())
    (tmp_path / "train" / "more" / "d.txt.gz").write_bytes(packed)
    (tmp_path / "validation.txt").write_text("\n\n".join(texts(120, 130)))
    configure(train=f"{tmp_path}/train/**", validation=f"{tmp_path}/validation.txt")
    return tmp_path


@pytest.fixture
def trained(folder):
    configure(vocabulary=str(folder / "vocabulary.model"))
    local_text.train_vocabulary(40)
    return folder


def read(dataset):
    return [example["text"].decode() for example in dataset.as_numpy_iterator()]


def expected_documents(split):
    return [text for path in local_text.files(split) for text in local_files.documents(path)]


@pytest.fixture(scope="module", params=["a.txt", "a.json.gz"])
def rewritten(request, tmp_path_factory):
    """A path, and a dataset that reads the file anew each time; cuts at six characters."""
    path = tmp_path_factory.mktemp("rewritten") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_files, "MAX_CHARACTERS", 6)
        yield path, local_text._read(tf.constant(str(path)))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(parts=st.lists(st.text(LETTERS, max_size=60), max_size=5), seed=st.randoms())
def test_the_dataset_holds_the_documents_of_the_file(rewritten, parts, seed):
    path, dataset = rewritten
    if ".json" in path.name:
        lines = [json.dumps({"text": p}, ensure_ascii=seed.random() < 0.5) for p in parts]
        content = "\ufeff"[: seed.randrange(2)] + "".join(
            line + seed.choice(["\n", "\r\n", " \n\n", "\n\u00a0\n"]) for line in lines
        )
    else:
        content = "\n\n".join(parts)
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    assert read(dataset) == list(local_files.documents(str(path)))


@pytest.mark.parametrize("split, count", [("train", 160), ("validation", 10)])
def test_the_source_gives_the_documents_of_all_files(folder, split, count):
    found = read(TASK.source.get_dataset(split, shuffle=False))
    assert len(found) == count and sorted(found) == sorted(expected_documents(split))


def test_hosts_share_the_files(folder):
    shards = [
        read(TASK.source.get_dataset("train", shuffle=False, shard_info=seqio.ShardInfo(i, 4)))
        for i in range(4)
    ]
    paths = local_text.files("train")
    assert shards == [list(local_files.documents(path)) for path in paths]


def source_dataset():
    return TASK.source.get_dataset("train", seed=1)


def task_dataset():
    return TASK.get_dataset(LENGTHS, "train", shuffle=False, seed=1)


@pytest.mark.parametrize("make, read_before", [(source_dataset, 70), (task_dataset, 30)])
def test_a_checkpoint_restores_the_position(trained, tmp_path, make, read_before):
    dataset = make()
    iterator = iter(dataset)
    for _ in range(read_before):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "position"))
    expected = [next(iterator) for _ in range(20)]
    restored = iter(dataset)
    tf.train.Checkpoint(iterator=restored).read(path).assert_consumed()
    for example in expected:
        tf.nest.map_structure(np.testing.assert_array_equal, next(restored), example)


def test_examples_are_of_the_asked_lengths_and_end(trained):
    dataset = TASK.get_dataset(LENGTHS, "train", shuffle=False, seed=0)
    examples = list(dataset.take(20).as_numpy_iterator())
    for name, length in LENGTHS.items():
        assert {len(example[name]) for example in examples} == {length}
        assert {example[name][-1] for example in examples} == {1}
        decoded = [local_text.VOCABULARY.decode(example[name].tolist()) for example in examples]
        assert all("<extra_id_0>" in text for text in decoded)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_files_is_one_line(split):
    with pytest.raises(UserError) as raised:
        TASK.source.get_dataset(split)
    assert str(raised.value) == (
        f"local_text_span_corruption: no files for the split '{split}'; set "
        f"--gin.local_text.{split}=\"'FOLDER/*.txt'\""
    )


def test_a_pattern_that_matches_no_file_is_one_line(folder, monkeypatch):
    monkeypatch.chdir(folder)
    configure(validation=["train/a.txt", "no/*.txt"])
    with pytest.raises(UserError) as raised:
        TASK.source.prepare()
    assert str(raised.value) == (
        f"local_text.validation='no/*.txt' matches no file, seen from {folder}"
    )
    configure(validation="train")
    with pytest.raises(UserError, match="^local_text.validation='train' matches no file"):
        TASK.source.prepare()


@pytest.mark.parametrize("name, value", [("train", 5), ("validation", ["a", 5]), ("vocabulary", 5)])
def test_a_path_that_is_no_string_is_one_line(name, value):
    configure(**{name: value})
    with pytest.raises(UserError, match=f"local_text.{name}=5: give a path in quotes"):
        local_text.settings()


def test_a_file_that_several_patterns_match_is_read_once(folder):
    configure(train=(f"{folder}/train/*.txt", f"{folder}/**/a.*", f"{folder}/train/more/*.gz"))
    assert local_text.files("train") == [
        f"{folder}/train/a.txt",
        f"{folder}/train/more/d.txt.gz",
    ]


def test_the_home_folder_may_be_written_as_a_tilde(trained, monkeypatch):
    monkeypatch.setenv("HOME", str(trained))
    configure(train="~/train/a.txt", vocabulary="~/vocabulary.model")
    assert local_text.files("train") == [f"{trained}/train/a.txt"]
    assert local_text.vocabulary_path() == f"{trained}/vocabulary.model"


@pytest.mark.parametrize("name", ["train/more/e.jsonl", "validation.txt"])
def test_a_file_of_either_split_is_checked_before_a_run(trained, name):
    (trained / name).write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=rf"\A{re.escape(str(trained / name))}:1: not UTF-8, .*\Z"):
        registry.prepare(TASK)


def test_validation_files_are_not_needed(trained):
    configure(validation=())
    registry.prepare(TASK)
    (trained / "vocabulary.model").unlink()
    with pytest.raises(UserError, match="no such file"):
        registry.prepare(TASK)


@pytest.mark.parametrize("line", ['{"tex": "a"}', '{"text": "\\ud800"}', "[" * 100_000, "\xff"])
def test_a_bad_line_that_only_the_run_meets_has_the_error_of_the_check(folder, monkeypatch, line):
    monkeypatch.setattr(local_files, "CHECKED_BYTES", 0)
    monkeypatch.setattr(local_files, "CHECKED_DOCUMENTS", 1)
    path = folder / "late.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line.encode("latin-1"))
    configure(train=str(path))
    with pytest.raises(tf.errors.OpError) as raised:
        read(TASK.source.get_dataset("train"))
    with pytest.raises(UserError) as expected:
        list(local_files.documents(str(path)))
    assert str(expected.value).startswith(f"{path}:2: ")
    with pytest.raises(UserError) as told, features.user_errors("data"):
        raise raised.value
    assert str(told.value) == str(expected.value)


def test_without_a_vocabulary_the_error_says_how_to_train_one(folder):
    with pytest.raises(UserError) as raised:
        registry.prepare(TASK)
    assert str(raised.value) == (
        "local_text.vocabulary is not set: give the path of a vocabulary" + MISSING
    )
    configure(vocabulary=f"{folder}/gone.model")
    with pytest.raises(UserError) as raised:
        registry.prepare(TASK)
    assert str(raised.value) == (
        f"local_text.vocabulary='{folder}/gone.model': no such file" + MISSING
    )


def test_a_vocabulary_that_is_none_is_one_line(folder):
    configure(vocabulary=f"{folder}/validation.txt")
    with pytest.raises(UserError, match=r"\A.*/validation.txt: not a SentencePiece model \(.*\Z"):
        registry.prepare(TASK)


def test_a_trained_vocabulary_is_written_where_gin_says_and_used(folder):
    path = folder / "new" / "vocabulary.model"
    configure(vocabulary=str(path))
    assert local_text.train_vocabulary(40) == path
    found = TASK.output_features["targets"].vocabulary
    assert found.sentencepiece_model_file == str(path) and found.vocab_size == 140
    assert found.decode(found.encode("the red cat")) == "the red cat"


def test_a_vocabulary_is_trained_on_the_start_of_each_file(folder, monkeypatch):
    given_texts = []
    monkeypatch.setattr(vocabulary, "TRAINING_CHARACTERS", 280)
    monkeypatch.setattr(vocabulary, "train", lambda texts, path, size: given_texts.extend(texts))
    configure(vocabulary=f"{folder}/vocabulary.model")
    local_text.train_vocabulary(40)
    expected = []
    for path in local_text.files("train"):
        first, second, *_ = local_files.documents(path)
        expected += [first, second[: 280 // 4 + 1 - len(first)]]
    assert given_texts == expected


@pytest.mark.parametrize(
    "size, path, message",
    [
        (0, "new.model", "no vocabulary has 0 pieces: give a number, such as 8000"),
        (-1, "new.model", "no vocabulary has -1 pieces: give a number, such as 8000"),
        (
            40,
            None,
            "local_text.vocabulary is not set: give --gin.local_text.vocabulary=\"'PATH'\", where "
            "to write it",
        ),
        (
            40,
            "validation.txt",
            "local_text.vocabulary='{}' exists: name another path, or remove it",
        ),
        (
            40,
            "validation.txt/new.model",
            "local_text.vocabulary='{}' cannot be written: File exists",
        ),
    ],
)
def test_a_vocabulary_that_cannot_be_trained_is_one_line(folder, size, path, message):
    path = path and f"{folder}/{path}"
    configure(vocabulary=path)
    before = sorted(folder.iterdir())
    with pytest.raises(UserError) as raised:
        local_text.train_vocabulary(size)
    assert str(raised.value) == message.format(path)
    assert sorted(folder.iterdir()) == before


def test_a_vocabulary_of_too_many_pieces_writes_nothing(folder):
    configure(vocabulary=f"{folder}/new.model")
    with pytest.raises(UserError, match=r"no vocabulary of 4000 pieces .*use at most \d+"):
        local_text.train_vocabulary(4000)
    assert not (folder / "new.model").exists()
