import gzip
import json
import re
import textwrap

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.data import registry
from switch_tf.data.reading import user_errors
from switch_tf.errors import UserError
from switch_tf.tasks import local_text
from switch_tf.tasks.parts import preprocessors
from switch_tf.tasks.sources import local_files, text_files
from switch_tf.tasks.vocabulary import t5
from tests.helpers import on_ram
from tests.tasks.official_files import set_macros

TASK = seqio.TaskRegistry.get("local_text_span_corruption")
LENGTHS = {"inputs": 32, "targets": 8}
# Every kind of blank and of line end, a byte order mark, and letters of one to four bytes.
LETTERS = "ab \n\n\n\r\t\v\f\x1c\x85\xa0\u2028\u3000\ufeffé\U0001f600"


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
    t5.train(texts(0, 40), folder / "vocabulary.model", 34)
    set_macros(VOCABULARY_PATH=str(folder / "vocabulary.model"))
    return folder


def read(dataset):
    return [example["text"].decode() for example in dataset.as_numpy_iterator()]


def expected_documents(split):
    return [text for path in local_text.files(split) for text in local_files.documents(path)]


@pytest.fixture(scope="module", params=["a.txt", "a.json.gz"])
def rewritten(request, tmp_path_factory):
    """A path, and a dataset that reads the file anew each time."""
    path = tmp_path_factory.mktemp("rewritten") / request.param
    return path, text_files._read(tf.constant(str(path)))


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_files, "MAX_CHARACTERS", 6)
        patch.setattr(text_files, "_AT_A_TIME", 3)
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
        decode = TASK.output_features[name].vocabulary.decode
        decoded = [decode(example[name].tolist()) for example in examples]
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
        f"local_text.validation='no/*.txt' matches no file, relative to {folder}"
    )
    configure(validation="train")
    with pytest.raises(UserError, match="^local_text.validation='train' matches no file"):
        TASK.source.prepare()


def test_files_on_a_remote_file_system_are_read_as_local_ones(trained):
    expected = [example["targets"].tolist() for example in task_dataset().as_numpy_iterator()]
    with on_ram(trained) as place:
        patterns = [f"{place}/train/*", f"{place}/train/more/*.*"]
        configure(train=patterns, validation=f"{place}/validation.txt")
        set_macros(VOCABULARY_PATH=f"{place}/vocabulary.model")
        registry.prepare(TASK)
        assert TASK.source.missing() is None
        assert [path.removeprefix(place) for path in local_text.files("train")] == [
            "/train/a.txt",
            "/train/b.json.gz",
            "/train/more/c.jsonl",
            "/train/more/d.txt.gz",
        ]
        assert [e["targets"].tolist() for e in task_dataset().as_numpy_iterator()] == expected
        # TensorFlow would append to a file on ram:// that is there.
        tf.io.gfile.remove(f"{place}/validation.txt")
        tf.io.write_file(f"{place}/validation.txt", b"\xff\n")
        with pytest.raises(UserError, match=rf"\A{place}/validation.txt:1: not UTF-8, .*\Z"):
            registry.prepare(TASK)


@pytest.mark.parametrize(
    "pattern, told",
    [
        ("ram://nowhere/*.txt", "local_text.train='{}' matches no file"),
        (
            "ram://a/**",
            "'{}': ** matches local folders only: give a pattern for each depth, such as */*.txt",
        ),
        ("nocloud://a/*.txt", "'{}' cannot be read: File system scheme 'nocloud' not implemented"),
    ],
)
def test_a_remote_pattern_that_finds_nothing_is_one_line(pattern, told):
    configure(train=pattern)
    with pytest.raises(UserError) as raised:
        TASK.source.prepare()
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(told.format(pattern))


@pytest.mark.parametrize("name, value", [("train", 5), ("validation", ["a", 5])])
def test_a_path_that_is_no_string_is_one_line(name, value):
    configure(**{name: value})
    with pytest.raises(UserError, match=rf"local_text.{name}=.*5\]?: give a path in quotes"):
        local_text.settings()


def test_a_file_that_several_patterns_match_is_read_once(folder):
    configure(train=(f"{folder}/train/*.txt", f"{folder}/**/a.*", f"{folder}/train/more/*.gz"))
    assert local_text.files("train") == [
        f"{folder}/train/a.txt",
        f"{folder}/train/more/d.txt.gz",
    ]


def test_a_file_with_brackets_in_its_name_is_no_pattern(folder):
    (folder / "train/a[1].txt").write_text("In brackets.\n")
    configure(train=f"{folder}/train/a[1].txt")
    assert local_text.files("train") == [f"{folder}/train/a[1].txt"]
    (example,) = TASK.source.get_dataset("train").as_numpy_iterator()
    assert example["text"] == b"In brackets."


def test_the_home_folder_may_be_written_as_a_tilde(trained, monkeypatch):
    monkeypatch.setenv("HOME", str(trained))
    configure(train="~/train/a.txt")
    set_macros(VOCABULARY_PATH="~/vocabulary.model")
    assert local_text.files("train") == [f"{trained}/train/a.txt"]
    model = TASK.output_features["targets"].vocabulary
    assert model.sentencepiece_model_file == f"{trained}/vocabulary.model"


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
def test_a_bad_line_that_only_the_run_meets_has_the_error_of_the_check(
    folder, hardly_checked, line
):
    path = folder / "late.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line.encode("latin-1"))
    configure(train=str(path))
    with pytest.raises(tf.errors.OpError) as raised:
        read(TASK.source.get_dataset("train"))
    with pytest.raises(UserError) as expected:
        list(local_files.documents(str(path)))
    assert str(expected.value).startswith(f"{path}:2: ")
    with pytest.raises(UserError) as told, user_errors("data"):
        raise raised.value
    assert str(told.value) == str(expected.value)


@pytest.fixture
def hardly_checked(monkeypatch):
    """Files are as those of a corpus too large to be checked before a run."""
    monkeypatch.setattr(local_files, "CHECKED_BYTES", 0)
    monkeypatch.setattr(local_files, "CHECKED_DOCUMENTS", 1)


def test_a_bad_line_of_plain_text_that_only_the_run_meets_stops_it_or_is_counted(
    folder, hardly_checked, capfd
):
    path = folder / "late.txt"
    path.write_bytes(b"one\n\ntwo \xff\nand three\n\n\xfe\nfour\n")
    configure(train=str(path))
    with pytest.raises(tf.errors.OpError) as raised:
        read(TASK.source.get_dataset("train"))
    with (
        pytest.raises(UserError, match=f"{path}:3: not UTF-8, at byte 5"),
        user_errors("data"),
    ):
        raise raised.value
    set_macros(BAD_DATA="skip")
    for _ in range(3):
        assert read(TASK.source.get_dataset("train")) == ["one", "and three", "four"]
    told = capfd.readouterr().err
    assert re.findall(rf"{path}: (\d+) lines skipped \(BAD_DATA='skip'\): ", told) == ["1", "2"]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_gzip_file_that_was_cut_off_is_told_where_a_run_comes_to_its_end(
    folder, hardly_checked, suffix, end
):
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcdefgh"), 200)) for _ in range(50)]
    lines = [json.dumps({"text": t}) if suffix == "jsonl" else f"{t}\n" for t in texts]
    whole = gzip.compress(((end or "\n").join(lines) + end).encode())
    path = folder / f"long.{suffix}.gz"
    path.write_bytes(whole)
    configure(train=str(path))
    assert read(TASK.source.get_dataset("train")) == texts
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(tf.errors.OpError) as raised:
        read(TASK.source.get_dataset("train"))
    with (
        pytest.raises(UserError, match="damaged gzip file|not JSON: Unterminated"),
        user_errors("data"),
    ):
        raise raised.value


def gzipped(*parts):
    """A gzip file with a member for each text."""
    return b"".join(gzip.compress(part.encode(), mtime=0) for part in parts)


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.jsonl.gz", gzipped('{"text": "one"}\n', "", '{"text": "two"}\n'), ["one", "two"]),
        ("a.txt.gz", gzipped("one\n\n", "", "", "two\n\n", "three") + bytes(512), None),
        ("a.txt", b"one\r\rtwo\r\n\r\nthree", None),
        ("a.jsonl", b'{"text": "one"}\r{"text": "two"}\r\n{"text": "three"}', None),
    ],
)
def test_an_epoch_has_all_records_that_the_check_counts(folder, name, content, expected):
    path = folder / "epoch" / name
    path.parent.mkdir()
    path.write_bytes(content)
    configure(train=str(path))
    found = read(TASK.source.get_dataset("train"))
    assert found == (expected or ["one", "two", "three"])
    assert len(found) == TASK.source.num_input_examples("train")


def test_a_file_that_changes_during_a_run_is_one_line(folder):
    path = folder / "changes.txt"
    path.write_text("one\n\ntwo")
    configure(train=str(path))
    dataset = TASK.source.get_dataset("train")
    path.write_text("one\n\ntwo\n\nthree")
    with pytest.raises(UserError) as told, user_errors("data"):
        read(dataset)
    assert str(told.value) == (
        f"{path}: 3 documents were read, but 2 counted before: the file has changed meanwhile; "
        "rerun the command"
    )


def test_a_text_in_one_line_is_read_as_the_same_text_in_lines(trained, monkeypatch):
    monkeypatch.setattr(preprocessors, "_CHUNK_TOKENS", 500)
    monkeypatch.setattr(local_files, "MAX_CHARACTERS", 2000)
    words = " ".join(texts(0, 400))
    lines = textwrap.wrap(words, 200)
    (trained / "one.jsonl").write_text(json.dumps({"text": words}))
    counts = {}
    for name, content in (("one.txt", words), ("lines.txt", "\n".join(lines)), ("one.jsonl", None)):
        if content is not None:
            (trained / name).write_text(content)
        configure(train=f"{trained}/{name}")
        counts[name] = sum(1 for _ in task_dataset())
    assert counts["one.txt"] == pytest.approx(counts["lines.txt"], rel=0.02)
    assert counts["one.jsonl"] == pytest.approx(counts["lines.txt"], rel=0.02)
    with gin.unlock_config():
        gin.bind_parameter("span_corruption.random_chunk", True)
    assert sum(1 for _ in task_dataset()) < counts["one.jsonl"] / 10


def test_a_vocabulary_that_is_none_is_one_line(folder):
    set_macros(VOCABULARY_PATH=f"{folder}/validation.txt")
    with pytest.raises(UserError, match=r"\A.*/validation.txt: not a SentencePiece model \(.*\Z"):
        registry.prepare(TASK)


def test_what_is_missing_is_told_in_a_few_words(folder):
    assert TASK.source.describe() == "files of local_text.train and .validation"
    assert TASK.source.missing() is None
    configure(validation=f"{folder}/no.txt")
    assert TASK.source.missing() == f"no file matches {folder}/no.txt"
    configure(train=())
    assert TASK.source.missing() == "local_text.train is not set"
