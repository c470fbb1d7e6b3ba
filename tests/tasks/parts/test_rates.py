import types

import pytest
import seqio
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.tasks import (
    super_glue,  # noqa: F401 - register tasks
)
from switch_tf.tasks.parts import rates
from tests.tasks.official_files import set_macros, write_file


@pytest.fixture(autouse=True)
def configured(official):
    rates._estimate.cache_clear()
    return official


def examples(name):
    return rates.examples(seqio.TaskRegistry.get(name))


def counted(name):
    """How many examples a task's train split gives."""
    task = seqio.TaskRegistry.get(name)
    return sum(1 for _ in task.get_dataset(None, "train", shuffle=False))


@pytest.mark.parametrize(
    "name, count",
    [("glue_cola", 2), ("super_glue_wsc_train", 1), ("super_glue_multirc", 2), ("glue_mnli", 3)],
)
def test_the_rate_is_the_number_of_examples(name, count):
    # WSC leaves one of two examples out, MultiRC makes two of a line.
    assert examples(name) == counted(name) == count


def test_a_large_source_is_estimated_from_its_first_examples(monkeypatch):
    """Of WSC's two, the first is kept and the second left out."""
    monkeypatch.setattr(rates, "COUNTED_EXAMPLES", 1)
    assert examples("super_glue_wsc_train") == 2 != counted("super_glue_wsc_train")


def read(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"inputs": ["a", "b", "c"], "targets": ["d"] * 3})


def task_of(steps, **known):
    """A task of three examples, outside the registry."""
    source = seqio.FunctionDataSource(read, ["train"], **known)
    features = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
    return seqio.Task("rates_own", source, features, steps)


def twice(dataset):
    return dataset.flat_map(lambda x: tf.data.Dataset.from_tensors(x).repeat(2))


def test_a_task_that_cannot_be_cached_is_counted_alike():
    steps = [twice, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]
    assert rates.examples(task_of(steps, num_input_examples={"train": 3})) == 6
    steps.insert(2, seqio.CacheDatasetPlaceholder())
    assert rates.examples(task_of(steps, num_input_examples={"train": 3})) == 6


def test_a_source_of_unknown_size_is_one_line():
    with pytest.raises(UserError) as raised:
        rates.examples(task_of([seqio.preprocessors.tokenize]))
    assert str(raised.value) == (
        "the source of task 'rates_own' does not report its number of examples: cache the task "
        "with scripts/cache_tasks.sh, or give the mixture a number as its rate"
    )


@pytest.mark.parametrize("name", ["glue_mnli_matched", "glue_wnli", "super_glue_wsc_eval"])
def test_a_task_without_a_train_split_has_none(name):
    assert examples(name) == 0


def test_a_cached_task_tells_its_own():
    task = types.SimpleNamespace(
        splits=("train",),
        cache_dir="folder",
        get_cached_stats=lambda split: {"inputs_tokens": 70, "targets_tokens": 30, "examples": 2},
    )
    assert rates.examples(task) == 2


def test_it_is_counted_once_for_each_setting(monkeypatch, tmp_path):
    assert examples("glue_cola") == 2
    monkeypatch.setattr(seqio.Task, "preprocess_precache", None)
    assert examples("glue_cola") == 2
    monkeypatch.undo()

    write_file(tmp_path, "CoLA/train.tsv", "gj04\t1\t\tRain.\n" * 5)
    set_macros(DATA_DIR=str(tmp_path))
    assert examples("glue_cola") == 5


def test_wsc_and_dpr_are_in_super_glue_and_wnli_is_not_in_glue():
    assert {"dpr", "super_glue_wsc_train"} <= {
        task.name for task in seqio.get_mixture_or_task("super_glue").tasks
    }
    assert "glue_wnli" not in [task.name for task in seqio.get_mixture_or_task("glue").tasks]
