import numpy as np
import pytest
import seqio
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.tasks.parts import preprocessors, statistics

BYTES = seqio.ByteVocabulary(extra_ids=100)
FEATURES = {name: seqio.Feature(BYTES) for name in ("inputs", "targets")}
STEPS = [
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    seqio.preprocessors.append_eos_after_trim,
]
LENGTHS = {"inputs": 8, "targets": 4}


def task(name, inputs, steps=STEPS, **columns):
    def read(split, shuffle_files, seed=None):
        given = {"inputs": inputs, "targets": ["yes"] * len(inputs)} | columns
        return tf.data.Dataset.from_tensor_slices(given)

    return seqio.Task(name, seqio.FunctionDataSource(read, ["train"]), FEATURES, steps)


def counts(provider, count=100, lengths=LENGTHS):
    found = statistics.untrimmed(provider, "train", lengths, count)
    return {name: found[name].tolist() for name in lengths}


def test_lengths_are_those_before_trimming_with_the_end():
    found = counts(task("a", ["a", "abc", "a" * 50]))
    assert found == {"inputs": [2, 4, 51], "targets": [4, 4, 4]}
    assert counts(task("a", ["a", "abc", "a" * 50]), count=2)["inputs"] == [2, 4]


def test_a_task_that_cannot_be_cached_is_counted_alike():
    steps = [STEPS[0], STEPS[2]]
    assert counts(task("a", ["a", "a" * 50], steps))["inputs"] == [2, 51]


def test_span_corruption_cuts_text_to_the_lengths():
    steps = [*STEPS[:2], preprocessors.span_corruption, STEPS[2]]
    # What fills the inputs, once spans of it are sentinels.
    found = counts(task("a", ["x"], steps, targets=["a" * 400]), 3, {"inputs": 32, "targets": 8})
    assert found["inputs"][:2] == [32, 32] and found["targets"][:2] == [8, 8]


def test_wrong_answers_of_rank_classification_are_not_counted():
    assert counts(task("a", ["a", "ab"], is_correct=[True, False]))["inputs"] == [2]


def test_a_mixture_is_counted_at_its_rates_and_no_example_twice():
    parts = [task("statistics_a", ["a"] * 300), task("statistics_b", ["ab"] * 300)]
    for part in parts:
        seqio.TaskRegistry.add_provider(part.name, part)
    try:
        mixture = seqio.Mixture("ab", [("statistics_a", 3.0), ("statistics_b", 1.0)])
        assert 140 < counts(mixture, 200)["inputs"].count(2) < 160
        everything = counts(mixture, 10_000)["inputs"]
        assert (everything.count(2), everything.count(3)) == (300, 300)
    finally:
        for part in parts:
            seqio.TaskRegistry.remove(part.name)


def test_no_example_and_no_feature_are_one_line():
    def drop(dataset):
        return dataset.filter(lambda _: False)

    with pytest.raises(UserError, match="^'a', split 'train', has no examples$"):
        counts(task("a", ["a"], [*STEPS, drop]))

    def lack(dataset):
        return dataset.map(lambda example: {"targets": example["targets"]})

    with pytest.raises(
        UserError, match="^the preprocessors of 'a' give no 'inputs'; they give targets"
    ):
        counts(task("a", ["a"], [lack, *STEPS]))


def test_the_table_of_lengths():
    found = {"inputs": np.arange(1, 21), "targets": np.full(20, 4)}
    found |= {"unknown_inputs": np.repeat([0, 1], [16, 4]), "unknown_targets": np.zeros(20)}
    assert statistics.length_rows(found, LENGTHS) == [
        ("feature", "length", "min", "mean", "p50", "p95", "max", "truncated", "unknown"),
        ("inputs", "8", "1", "10.5", "10", "19", "20", "60.0%", "1.9%"),
        ("targets", "4", "4", "4.0", "4", "4", "4", "0.0%", "0%"),
    ]


def test_the_table_of_padding_packs_as_seqio_does():
    # The third does not fit into a row with the first two; the last, cut off, fills its inputs.
    found = {"inputs": np.array([3, 5, 2, 99]), "targets": np.array([1, 1, 2, 2])}
    assert statistics.padding_rows(found, LENGTHS) == [
        ("", "rows", "padding"),
        ("unpacked", "4", f"{1 - 24 / 48:.1%}"),
        ("packed", "3", f"{1 - 24 / 36:.1%}"),
    ]
