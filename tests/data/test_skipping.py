import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from switch_tf.data import registry
from switch_tf.data.reading import TaskSplit, elements
from switch_tf.errors import UserError
from tests.data.pairs import FEATURES, STEPS
from tests.tasks.official_files import set_macros

NAME = "skipping"


@pytest.fixture
def register():
    """Registers a task of a source, with these preprocessors; returns its prepared task."""

    def add(source, steps=STEPS):
        task = seqio.TaskRegistry.add(
            NAME, source=source, preprocessors=steps, output_features=FEATURES
        )
        registry.prepare(task)
        return seqio.TaskRegistry.get(NAME)

    yield add
    seqio.TaskRegistry.remove(NAME)
    gin.clear_config()


def inputs(task, **order):
    dataset = task.get_dataset({"inputs": 8, "targets": 8}, "train", **order)
    found = elements(dataset, TaskSplit(task.name, "train"))
    return [bytes((example["inputs"][:-1] - 3).tolist()).decode() for example in found]


def write(tmp_path, lines):
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    return seqio.TextLineDataSource({"train": f"{tmp_path}/a.tsv"})


LINES = ["q\ta"] * 30
LINES[0] = LINES[7] = LINES[8] = LINES[29] = "no tab"


@pytest.mark.parametrize("shuffle", [False, True])
def test_lines_that_the_preprocessors_refuse_are_left_out_and_told(
    tmp_path, register, capsys, shuffle
):
    set_macros(BAD_DATA="skip")
    task = register(write(tmp_path, LINES))
    for _ in range(2):
        assert inputs(task, shuffle=shuffle, num_epochs=2) == ["q"] * 52
    assert capsys.readouterr().out == (
        f"'skipping', split 'train': 4 records skipped (BAD_DATA='skip'), the first: {tmp_path}/"
        "a.tsv:1: 'no tab': Expect 2 fields but have 1\n"
    )


def test_without_the_setting_the_first_of_them_stops_the_run(tmp_path, register):
    task = register(write(tmp_path, LINES))
    with pytest.raises(UserError, match=r"a.tsv:1: 'no tab': Expect 2 fields"):
        inputs(task, shuffle=False)
    # Also of a task that was prepared with it.
    set_macros(BAD_DATA="skip")
    registry.prepare(task)
    gin.clear_config()
    with pytest.raises(UserError, match=r"a.tsv:1: 'no tab': Expect 2 fields"):
        inputs(task, shuffle=False)


def test_another_task_with_the_same_source_keeps_its_records(tmp_path, register):
    set_macros(BAD_DATA="skip")
    source = write(tmp_path, LINES)
    register(source)
    assert len(list(source.get_dataset("train", shuffle=False))) == 30


def refuses(text):
    if text == b"bad":
        raise ValueError("no such text")
    return np.array(text, object)


@seqio.map_over_dataset
def of_the_users(example):
    text = tf.ensure_shape(tf.numpy_function(refuses, [example["text"]], tf.string), [])
    return {"inputs": text, "targets": text}


def test_records_of_a_function_that_a_users_function_refuses_are_left_out(register, capsys):
    def read(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices({"text": ["a", "bad", "b"]})

    set_macros(BAD_DATA="skip")
    task = register(seqio.FunctionDataSource(read, ["train"]), [of_the_users, *STEPS[1:]])
    assert inputs(task, shuffle=False) == ["a", "b"]
    assert "1 records skipped (BAD_DATA='skip'), the first: record 2: " in capsys.readouterr().out


def test_a_record_that_cannot_be_read_is_one_line(tmp_path, register):
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(3):
            writer.write(b"q\ta")
    content = bytearray((tmp_path / "a.tfrecord").read_bytes())
    content[-6] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(bytes(content))
    source = seqio.FileDataSource(tf.data.TFRecordDataset, {"train": path})
    task = register(source)
    with pytest.raises(UserError) as told:
        inputs(task, shuffle=False)
    assert str(told.value).startswith(
        f"'skipping', split 'train': {path}, record 3: cannot be read"
    )
    set_macros(BAD_DATA="skip")
    registry.prepare(task)
    with pytest.raises(UserError, match="record 3: cannot be read: corrupted record"):
        inputs(task, shuffle=False)


def one_good_text():
    yield "q\ta"
    raise ValueError("no such text")


def generated(split, shuffle_files, seed=None):
    spec = tf.TensorSpec([], tf.string)
    return tf.data.Dataset.from_generator(one_good_text, output_signature=spec)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_generator_that_raises_is_named_with_its_place_and_the_mend(register, policy):
    set_macros(BAD_DATA=policy)
    task = register(seqio.FunctionDataSource(generated, ["train"]))
    with pytest.raises(UserError) as told:
        inputs(task, shuffle=False)
    line = str(told.value)
    assert line.startswith("'skipping', split 'train': ") and "\n" not in line
    assert "test_skipping.py:" in line and "in one_good_text: ValueError: no such text" in line
    if policy == "skip":
        assert "record 2: cannot be read" in line
        assert line.endswith(": mend what the source reads, function generated: it ends there")
