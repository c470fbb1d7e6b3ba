import functools
import gzip
import zlib

import gin
import pytest
import seqio
import tensorflow as tf

from switch_tf.data import counts, raw_files, registry
from switch_tf.data.reading import TaskSplit, elements
from switch_tf.errors import UserError
from tests.data.pairs import FEATURES, STEPS
from tests.tasks.official_files import set_macros

NAME = "counting"


@pytest.fixture
def epoch():
    """Prepares a task of a source, and returns what counts the examples of its epoch."""

    def prepare(source, steps=STEPS):
        seqio.TaskRegistry.add(NAME, source=source, preprocessors=steps, output_features=FEATURES)
        registry.prepare(seqio.get_mixture_or_task(NAME))
        return read

    def read(**how):
        task = seqio.TaskRegistry.get(NAME)
        dataset = task.get_dataset({"inputs": 8, "targets": 8}, "train", **how)
        return len(list(elements(dataset, TaskSplit(NAME, "train"))))

    yield prepare
    seqio.TaskRegistry.remove(NAME)
    gin.clear_config()


def write(tmp_path, number, write=lambda path, content: path.write_bytes(content), name="a.tsv"):
    write(tmp_path / name, b"q\ta\n" * number)


def zipped(path, content):
    path.write_bytes(gzip.compress(content))


def deflated(path, content):
    path.write_bytes(zlib.compress(content))


def records(path, content):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for line in content.splitlines():
            writer.write(line)


def as_examples(path, content):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for line in content.splitlines():
            one = seqio.dict_to_tfexample({"line": line.decode()})
            writer.write(one.SerializeToString())


def lines_of(kind, path):
    return tf.data.TextLineDataset(path, kind)


def examples(files):
    return seqio.TFExampleDataSource(files, {"line": tf.io.FixedLenFeature([], tf.string)})


KINDS = {
    "lines": (lambda path, content: path.write_bytes(content), seqio.TextLineDataSource),
    "gzip": (
        zipped,
        lambda files: seqio.FileDataSource(functools.partial(lines_of, "GZIP"), files),
    ),
    "ZLIB": (
        deflated,
        lambda files: seqio.FileDataSource(functools.partial(lines_of, "ZLIB"), files),
    ),
    "records": (records, lambda files: seqio.FileDataSource(tf.data.TFRecordDataset, files)),
    "examples": (as_examples, examples),
}
TAKE_LINE = seqio.map_over_dataset(lambda example: example["line"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_file_that_changes_between_its_check_and_an_epoch_is_named(
    tmp_path, epoch, kind, shuffle
):
    to_file, source = KINDS[kind]
    write(tmp_path, 3, to_file, "a.tsv")
    write(tmp_path, 5, to_file, "b.tsv")
    steps = [TAKE_LINE, *STEPS] if kind == "examples" else STEPS
    read = epoch(source({"train": f"{tmp_path}/*.tsv"}), steps)
    assert read(shuffle=shuffle) == 8
    assert read(shuffle=shuffle, num_epochs=2) == 16
    write(tmp_path, 4, to_file, "b.tsv")
    with pytest.raises(UserError) as told:
        read(shuffle=shuffle)
    assert str(told.value) == (
        f"'counting', split 'train': {tmp_path}/b.tsv: 4 records are read, but 5 were counted "
        "before: the file has changed meanwhile, or TensorFlow's reader loses a part: write it "
        "again if it is damaged, and rerun the command"
    )
    write(tmp_path, 6, to_file, "b.tsv")
    with pytest.raises(UserError, match="b.tsv: 6 records are read, but 5 were counted before"):
        read(shuffle=shuffle)
    # Files that follow each other within a second may have the same time, and size.
    raw_files._checked.clear()
    registry.prepare(seqio.get_mixture_or_task(NAME))
    assert read(shuffle=shuffle) == 9


def test_a_heading_and_a_shard_of_the_files_are_no_difference(tmp_path, epoch):
    for name, number in (("a.tsv", 3), ("b.tsv", 5), ("c.tsv", 0)):
        write(tmp_path, number, name=name)
    read = epoch(seqio.TextLineDataSource({"train": f"{tmp_path}/*.tsv"}, skip_header_lines=1))
    assert read() == 6
    shards = [seqio.ShardInfo(index, 2) for index in (0, 1)]
    assert [read(shard_info=shard, shuffle=False) for shard in shards] == [2, 4]


def test_what_bad_data_leaves_out_is_no_difference(tmp_path, epoch):
    (tmp_path / "a.tsv").write_text("q\ta\nno tab\nq\ta\n")
    set_macros(BAD_DATA="skip")
    read = epoch(seqio.TextLineDataSource({"train": f"{tmp_path}/a.tsv"}))
    assert read() == 2
    write(tmp_path, 1)
    with pytest.raises(UserError, match="a.tsv: 1 records are read, but 3 were counted before"):
        read()


def test_a_reader_that_leaves_records_out_is_not_compared(tmp_path, epoch):
    def some(path):
        return tf.data.TextLineDataset(path).filter(lambda line: line != "")

    (tmp_path / "a.tsv").write_text("q\ta\n\n\nq\ta\n")
    read = epoch(seqio.FileDataSource(some, {"train": f"{tmp_path}/a.tsv"}))
    assert read() == 2


@pytest.mark.parametrize("said, is_right", [(2, True), (None, True), (3, False), (1, False)])
def test_a_function_is_compared_with_what_its_source_says_of_it(epoch, said, is_right):
    def function(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices(["q\ta"] * 2)

    said = None if said is None else {"train": said}
    read = epoch(seqio.FunctionDataSource(function, ["train"], num_input_examples=said))
    if is_right:
        assert read() == 2
        return
    with pytest.raises(UserError) as told:
        read()
    assert "\n" not in str(told.value)
    assert "its source says 3" in str(told.value) or "its source says 1" in str(told.value)


def test_a_large_file_is_not_read_to_its_end_to_name_it(tmp_path, epoch, monkeypatch):
    write(tmp_path, 5)
    read = epoch(seqio.TextLineDataSource({"train": f"{tmp_path}/*.tsv"}))
    write(tmp_path, 9)
    monkeypatch.setattr(counts, "_AT_A_TIME", 2)
    monkeypatch.setattr("switch_tf.data.reading.SEARCH_SECONDS", 0.0)
    with pytest.raises(UserError, match="a.tsv: more than 2 records are read, but 5 were"):
        read()
