import functools
import json
import re

import gin
import pytest
import seqio
import tensorflow as tf

from switch_tf.data import features, provenance, windows
from switch_tf.data.described import described
from switch_tf.errors import UserError
from switch_tf.tasks.vocabulary import t5
from tests.data import cached_tasks
from tests.helpers import task_data
from tests.tasks.official_files import set_macros

NAME = "provenance_lines"
LENGTHS = {"inputs": 16, "targets": 16}


def upper(dataset, of="targets"):
    return dataset.map(lambda example: example | {of: tf.strings.upper(example[of])})


def as_pair(dataset):
    return dataset.map(lambda line: {"inputs": "", "targets": line})


def add(steps, files):
    seqio.TaskRegistry.add(
        NAME,
        source=seqio.TextLineDataSource({"train": files}),
        preprocessors=[
            as_pair,
            *steps,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=t5.T5_OUTPUT_FEATURES,
    )


@pytest.fixture
def cached(tmp_path):
    """A task of two files that is cached, with what it was made with; returns its folder."""
    plain = [f"the red cat {i} and the blue dog" for i in range(40)]
    # More pieces than the other vocabulary has with its sentinels.
    texts = [
        f"{chr(0x4E00 + i)} {chr(0x4F00 + i)} {chr(0x5000 + i)} {line}"
        for i, line in enumerate(plain)
    ]
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    t5.train(texts, tmp_path / "t5.model", 150)
    t5.train(plain, tmp_path / "smaller.model", 28)
    set_macros(VOCABULARY_PATH=str(tmp_path / "t5.model"))
    add([], f"{tmp_path}/*.txt")
    cached_tasks.write(tmp_path / "cache", NAME)
    seqio.set_global_cache_dirs([str(tmp_path / "cache")])
    task = seqio.TaskRegistry.get(NAME)
    provenance.write(f"{tmp_path}/cache/{NAME}", provenance.facts(task))
    yield tmp_path
    seqio.set_global_cache_dirs([])
    seqio.TaskRegistry.remove(NAME)
    gin.clear_config()


def check():
    features.prepare(task_data(NAME, LENGTHS, 2, use_cached=True), 256)


def test_a_run_like_the_one_that_cached_is_told_nothing(cached, capsys):
    check()
    assert capsys.readouterr().out == ""


def test_a_cache_of_another_vocabulary_is_refused_with_the_one_that_fits(cached):
    set_macros(VOCABULARY_PATH=str(cached / "smaller.model"))
    with pytest.raises(UserError) as told:
        check()
    assert str(told.value) == (
        f"cache of '{NAME}' in {cached}/cache/{NAME} was made with another vocabulary for 'inputs' "
        f"than this run has, {cached}/smaller.model: set VOCABULARY_PATH='{cached}/t5.model', or "
        "cache the task again with --overwrite"
    )


def test_a_copy_of_the_vocabulary_is_the_same(cached, capsys):
    (cached / "copy.model").write_bytes((cached / "t5.model").read_bytes())
    set_macros(VOCABULARY_PATH=str(cached / "copy.model"))
    check()
    assert capsys.readouterr().out == ""


def test_each_difference_is_a_line(cached, capsys, monkeypatch):
    (cached / "a.txt").write_text("other text")
    (cached / "b.txt").unlink()
    (cached / "c.txt").write_text("more text")
    monkeypatch.setattr("switch_tf.__version__", "9.9")
    set_macros(BAD_DATA="skip", DATA_DIR=str(cached))
    seqio.TaskRegistry.remove(NAME)
    # Another pattern, because SeqIO keeps which files it found.
    add([functools.partial(upper, of="targets")], f"{cached}/?.txt")
    check()
    code = described(upper).partition("(code ")[2].rstrip(")")
    what, files = f"cache of '{NAME}'", "1 of the files of split 'train' are"
    assert capsys.readouterr().out.splitlines() == [
        f"{what}: made with DATA_DIR=None, this run has '{cached}'",
        f"{what}: made with BAD_DATA='stop', this run has 'skip'",
        f"{what}: made without the preprocessor upper of of='targets' (code {code})(of='targets'), "
        "which this run has",
        f"{what}: made with switch_tf 0.1.0, this run has 9.9",
        f"{what}: {files} changed since, such as {cached}/a.txt",
        f"{what}: {files} not in it, such as {cached}/c.txt",
        f"{what}: {files} in it, but gone now, such as {cached}/b.txt",
    ]


def _every(number):
    return lambda dataset: dataset.shard(number, 0)


def _of_function(number):
    return seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: number, ["train"])


@pytest.mark.parametrize(
    "make",
    [
        lambda n: seqio.TextLineDataSource({"train": "a"}, skip_header_lines=n),
        lambda n: seqio.FileDataSource(_every(n), {"train": "a"}),
        lambda n: seqio.TfdsDataSource(f"c4/en:{n}.0.0"),
        _of_function,
    ],
)
def test_another_source_is_a_difference(make):
    assert provenance._source(make(3)) == provenance._source(make(3)) != provenance._source(make(5))


def test_a_cache_that_left_out_bad_records_is_told_to_a_run_that_would_not(cached, capsys):
    path = cached / "cache" / NAME / provenance.FILE
    made = json.loads(path.read_text())
    path.write_text(json.dumps(made | {"macros": made["macros"] | {"BAD_DATA": "skip"}}))
    check()
    assert capsys.readouterr().out == (
        f"cache of '{NAME}': made with BAD_DATA='skip', this run has 'stop'\n"
    )


def test_a_run_that_reads_a_cache_need_not_have_its_files(cached, capsys):
    for path in cached.glob("*.txt"):
        path.unlink()
    check()
    assert capsys.readouterr().out == ""


def test_a_cache_that_does_not_say_what_it_was_made_with_is_told(cached, capsys):
    path = cached / "cache" / NAME / provenance.FILE
    for text in ("{", "{}", "[1]", '{"vocabularies": 5}'):
        path.write_text(text)
        with pytest.raises(UserError, match=f"^{path}: cannot be read; cache the task again with"):
            check()
    path.unlink()
    check()
    assert capsys.readouterr().out == (
        f"cache of '{NAME}' in {path.parent} does not say what it was made with\n"
    )
    # A token that the vocabulary does not have is noticed all the same.
    set_macros(VOCABULARY_PATH=str(cached / "smaller.model"))
    task = seqio.TaskRegistry.get(NAME)
    with pytest.raises(UserError, match=r"has token \d+ in 'targets', but the vocabulary has 128"):
        windows.Windows(task, "train", LENGTHS, seed=0, streams=1).examples(0, 0)


@pytest.mark.parametrize("split_of", [features.train_batches, features.eval_dataset])
def test_a_cache_with_fewer_examples_than_were_written_is_one_line(cached, split_of):
    path = cached / "cache" / NAME / "stats.train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"examples": 90}))
    with pytest.raises(UserError) as told:
        split_of(task_data(NAME, LENGTHS, 2, use_cached=True))
    assert re.search(
        r"split 'train' has 80 examples in train.tfrecord-0\S*( to train.tfrecord-0\S*)?, but 90 "
        "were written; cache the task again with --overwrite$",
        str(told.value),
    )
