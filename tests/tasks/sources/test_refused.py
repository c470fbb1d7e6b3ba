"""Published records that are well formed, but that a task's preprocessors refuse."""

import pytest
import seqio
import tensorflow as tf

from switch_tf.data import registry
from switch_tf.data.reading import TaskSplit, elements
from switch_tf.errors import UserError
from switch_tf.tasks import reading
from switch_tf.tasks.vocabulary.t5 import T5_OUTPUT_FEATURES
from tests.tasks.official_files import set_macros


@seqio.map_over_dataset
def asserts(example):
    check = tf.debugging.Assert(example["label"] == 0, ["a contradiction"])
    with tf.control_dependencies([check]):
        return {"inputs": tf.identity(example["context"]), "targets": example["hypothesis"]}


@pytest.fixture
def task(official):
    steps = [asserts, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]
    seqio.TaskRegistry.add(
        "refused",
        source=reading.anli_source(1),
        preprocessors=steps,
        output_features=T5_OUTPUT_FEATURES,
    )
    yield seqio.TaskRegistry.get("refused")
    seqio.TaskRegistry.remove("refused")


def count(task):
    registry.prepare(task)
    dataset = task.get_dataset({"inputs": 32, "targets": 32}, "train")
    return len(list(elements(dataset, TaskSplit(task.name, "train"))))


def test_an_assertion_names_the_line_or_leaves_it_out(official, task, capsys):
    path = official / "anli_v1.0/R1/train.jsonl"
    with pytest.raises(UserError) as told:
        count(task)
    assert str(told.value).startswith(f"'refused', split 'train': {path}:2: ")
    assert "\n" not in str(told.value) and "assertion failed" in str(told.value)
    set_macros(BAD_DATA="skip")
    assert count(task) == 1
    assert f"1 records skipped (BAD_DATA='skip'), the first: {path}:2: " in capsys.readouterr().out
