import pytest
import seqio
import tensorflow as tf

from switch_tf.data import truncation
from switch_tf.data.truncation import Truncation
from switch_tf.errors import UserError
from tests.data import cached_tasks
from tests.helpers import task_data

FEATURES = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
# With the end of sequence, of rows of 8 and 4 tokens: one of three inputs is longer, no target.
TEXTS = {"truncation_long": ["a", "a" * 7, "a" * 8], "truncation_short": ["a"] * 3}
LENGTHS = {"inputs": 8, "targets": 4}


@pytest.fixture(scope="module", autouse=True)
def registered():
    for name, inputs in TEXTS.items():

        def read(split, shuffle_files, seed=None, inputs=inputs):
            given = {"inputs": inputs, "targets": ["yes"] * len(inputs)}
            return tf.data.Dataset.from_tensor_slices(given)

        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(read, ["train"]),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
            output_features=FEATURES,
        )
    seqio.MixtureRegistry.add("truncation_mixture", list(TEXTS), default_rate=1.0)
    yield
    seqio.MixtureRegistry.remove("truncation_mixture")
    for name in TEXTS:
        seqio.TaskRegistry.remove(name)


def test_a_small_split_is_counted_exactly_by_task():
    found = dict(truncation.count(task_data("truncation_mixture", LENGTHS, 2)))
    assert found == {
        "truncation_long": Truncation(3, 1 / 3, 0.0),
        "truncation_short": Truncation(3, 0.0, 0.0),
    }
    assert truncation.lines(found) == [
        "truncation_long: 33.3% of inputs and 0.0% of targets are truncated to "
        "TASK_FEATURE_LENGTHS (of 3 examples)"
    ]


def test_a_sample_is_the_first_examples():
    data = task_data("truncation_long", {"inputs": 2, "targets": 3}, 2)
    assert dict(truncation.count(data, 2)) == {"truncation_long": Truncation(2, 0.5, 1.0)}


@pytest.mark.parametrize(
    "of_task, of_all, examples, counted",
    [(2, 100, None, 2), (2, 100, 3, 2), (2, 100, 1, 1), (3, 5, None, 2), (3, 1, None, 1)],
)
def test_of_a_large_split_or_many_tasks_a_sample_is_counted(
    monkeypatch, of_task, of_all, examples, counted
):
    monkeypatch.setattr(truncation, "_SAMPLE_OF_TASK", of_task)
    monkeypatch.setattr(truncation, "_SAMPLE", of_all)
    found = dict(
        truncation.count(task_data("truncation_mixture", {"inputs": 1, "targets": 9}, 2), examples)
    )
    assert {share.examples for share in found.values()} == {counted}
    assert truncation.lines(found)[1].endswith(f" TASK_FEATURE_LENGTHS (of {counted} examples)")


def test_a_cached_task_is_counted_without_its_source(tmp_path):
    cached_tasks.forget()
    cached_tasks.write(tmp_path, "cached_pairs", ("train",))
    seqio.add_global_cache_dirs([str(tmp_path)])
    try:
        data = task_data("cached_pairs", {"inputs": 2, "targets": 64}, 2, use_cached=True)
        ((_, found),) = truncation.count(data, 10)
    finally:
        cached_tasks.forget()
    assert found.examples == 10 and found.inputs > 0 and found.targets == 0


def test_an_example_that_cannot_be_read_is_one_line_that_names_task_and_split(monkeypatch):
    task = seqio.TaskRegistry.get("truncation_short")
    broken = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.range(1).map(
            lambda x: dict.fromkeys(("inputs", "targets"), tf.strings.as_string(1 // x))
        ),
        ["train"],
    )
    monkeypatch.setattr(task, "_source", broken)
    with pytest.raises(UserError) as told:
        dict(truncation.count(task_data("truncation_short", LENGTHS, 2)))
    assert str(told.value).startswith("'truncation_short', split 'train': Integer division by zero")
