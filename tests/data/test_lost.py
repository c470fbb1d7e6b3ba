import re

import pytest
import seqio
import tensorflow as tf

from switch_tf.data import lost
from switch_tf.data.lost import Lost
from switch_tf.data.task_cache import TaskCache
from switch_tf.errors import StorageFails, UserError
from tests.data import cached_tasks
from tests.helpers import task_data

FEATURES = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
# With the end of sequence, of rows of 8 and 4 tokens: one of three inputs is longer, no target.
TEXTS = {"lost_long": ["a", "a" * 7, "a" * 8], "lost_short": ["a"] * 3}
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
    seqio.MixtureRegistry.add("lost_mixture", list(TEXTS), default_rate=1.0)
    yield
    seqio.MixtureRegistry.remove("lost_mixture")
    for name in TEXTS:
        seqio.TaskRegistry.remove(name)


def test_a_small_split_is_counted_exactly_by_task():
    found = dict(lost.count(task_data("lost_mixture", LENGTHS, 2)))
    assert found == {
        "lost_long": Lost(3, 1 / 3, 0.0),
        "lost_short": Lost(3, 0.0, 0.0),
    }
    assert list(lost.lines(found)) == [
        "lost_long: 33.3% of inputs and 0.0% of targets are truncated to "
        "TASK_FEATURE_LENGTHS (of 3 examples)"
    ]


def test_a_sample_is_the_first_examples():
    data = task_data("lost_long", {"inputs": 2, "targets": 3}, 2)
    assert dict(lost.count(data, 2)) == {"lost_long": Lost(2, 0.5, 1.0)}


@pytest.mark.parametrize(
    "of_task, of_all, examples, counted",
    [(2, 100, None, 2), (2, 100, 3, 2), (2, 100, 1, 1), (3, 5, None, 2), (3, 1, None, 1)],
)
def test_of_a_large_split_or_many_tasks_a_sample_is_counted(
    monkeypatch, of_task, of_all, examples, counted
):
    monkeypatch.setattr(lost, "_SAMPLE_OF_TASK", of_task)
    monkeypatch.setattr(lost, "_SAMPLE", of_all)
    found = dict(lost.count(task_data("lost_mixture", {"inputs": 1, "targets": 9}, 2), examples))
    assert {share.examples for share in found.values()} == {counted}
    assert list(lost.lines(found))[1].endswith(f" TASK_FEATURE_LENGTHS (of {counted} examples)")


class Lacking(seqio.ByteVocabulary):
    """A vocabulary of bytes that lacks the letter "a"."""

    unk_id = seqio.ByteVocabulary().encode("a")[0]


def test_tokens_that_the_vocabulary_lacks_are_counted(monkeypatch):
    features = {"inputs": seqio.Feature(Lacking()), "targets": FEATURES["targets"]}
    monkeypatch.setattr(seqio.get_mixture_or_task("lost_long"), "_output_features", features)
    # 16 of 19 tokens, since "a" * 7 and "a" * 8 end with one more.
    found = dict(lost.count(task_data("lost_long", {"inputs": 9, "targets": 4}, 2)))
    assert found["lost_long"] == Lost(3, unknown_inputs=16 / 19, lacking=("a",))
    assert list(lost.lines(found)) == [
        "lost_long: the vocabulary lacks 84% of the tokens of inputs and 0% of targets, such "
        "as 'a', which become its unknown token (of 3 examples)"
    ]


def test_empty_targets_are_told():
    found = {"a": Lost(4, empty=0.25)}
    assert list(lost.lines(found)) == ["a: 25.0% of targets are empty (of 4 examples)"]
    data = task_data("lost_empty", LENGTHS, 2)
    seqio.TaskRegistry.add(
        "lost_empty",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
                {"inputs": ["a", "b"], "targets": ["", "c"]}
            ),
            ["train"],
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=FEATURES,
    )
    try:
        assert dict(lost.count(data)) == {"lost_empty": Lost(2, empty=0.5)}
    finally:
        seqio.TaskRegistry.remove("lost_empty")


def test_more_spans_than_sentinels_are_found_where_no_function_of_t5_is_a_step():
    def masked(example):
        count = tf.strings.to_number(example["inputs"], tf.int32)
        sentinels = 9 + 3 + 256 - 1 - tf.range(count)
        between = tf.fill([count], 40)
        tokens = tf.reshape(tf.stack([sentinels, between], axis=1), [-1])
        return {"inputs": tokens, "targets": tf.concat([[50], tokens], axis=0)}

    vocabulary = seqio.ByteVocabulary(extra_ids=9)
    seqio.TaskRegistry.add(
        "lost_spans",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
                {"inputs": {"few": ["8", "9"], "many": ["9", "10"]}[split]}
            ),
            ["few", "many"],
        ),
        preprocessors=[lambda dataset: dataset.map(masked)],
        output_features={name: seqio.Feature(vocabulary) for name in ("inputs", "targets")},
    )
    try:
        few, many = (
            task_data("lost_spans", {"inputs": 64, "targets": 64}, 2, split=split)
            for split in ("few", "many")
        )
        found = dict(lost.count(few))
        assert found == {"lost_spans": Lost(2, endless=1.0)}
        assert list(lost.lines(found)) == [
            "lost_spans: 100.0% of targets lack the end of sequence, so that a model does not "
            "learn where to stop: add seqio.preprocessors.append_eos_after_trim (of 2 examples)"
        ]
        with pytest.raises(UserError, match="'lost_spans': an example has more masked spans than"):
            dict(lost.count(many))
    finally:
        seqio.TaskRegistry.remove("lost_spans")


def test_a_cached_task_is_counted_without_its_source(tmp_path):
    cached_tasks.forget()
    cached_tasks.write(tmp_path, "cached_pairs", ("train",))
    seqio.add_global_cache_dirs([str(tmp_path)])
    try:
        data = task_data("cached_pairs", {"inputs": 2, "targets": 64}, 2, use_cached=True)
        ((_, found),) = lost.count(data, 10)
    finally:
        cached_tasks.forget()
    assert found.examples == 10 and found.truncated_inputs > 0 and found.truncated_targets == 0


def test_an_example_that_cannot_be_read_is_one_line_that_names_task_and_split(monkeypatch):
    task = seqio.TaskRegistry.get("lost_short")
    broken = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.range(1).map(
            lambda x: dict.fromkeys(("inputs", "targets"), tf.strings.as_string(1 // x))
        ),
        ["train"],
    )
    monkeypatch.setattr(task, "_source", broken)
    with pytest.raises(UserError) as told:
        dict(lost.count(task_data("lost_short", LENGTHS, 2)))
    assert str(told.value).startswith(
        "'lost_short', split 'train': record 1: cannot be read: Integer division by zero"
    )


@pytest.mark.parametrize("damage", ["cut off", "damaged"])
def test_a_cached_file_that_is_damaged_beside_an_old_index_is_named(tmp_path, damage):
    """SeqIO's reader, which is used here, does not name it."""
    cached_tasks.forget()
    cached_tasks.write(tmp_path, "cached_pairs", ("train",))
    seqio.add_global_cache_dirs([str(tmp_path)])
    try:
        TaskCache(seqio.TaskRegistry.get("cached_pairs"), "train")
        (path,) = (tmp_path / "cached_pairs").glob("train.tfrecord-00000-*")
        content = bytearray(path.read_bytes())
        content[700] ^= 1
        path.write_bytes(content[:700] if damage == "cut off" else content)
        data = task_data("cached_pairs", {"inputs": 2, "targets": 64}, 2, use_cached=True)
        with pytest.raises(UserError) as told:
            dict(lost.count(data, 1300))
    finally:
        cached_tasks.forget()
    assert re.search(
        rf"^cache of task 'cached_pairs' in .*/{path.name} is {damage} at byte \d+; cache the task "
        r"again with --overwrite$",
        str(told.value),
    )


@pytest.mark.parametrize("fails", ["stat", "GFile"])
def test_a_cache_whose_file_system_fails_for_now_is_not_to_be_made_again(
    tmp_path, monkeypatch, fails
):
    def fail(*_):
        raise tf.errors.UnavailableError(None, None, "HTTP 503\n\t when reading gs://b/cache")

    cached_tasks.forget()
    cached_tasks.write(tmp_path, "cached_pairs", ("train",))
    seqio.add_global_cache_dirs([str(tmp_path)])
    try:
        task = seqio.TaskRegistry.get("cached_pairs")
        assert task.cache_dir
        monkeypatch.setattr(tf.io.gfile, fails, fail)
        with pytest.raises(StorageFails) as told:
            TaskCache(task, "train")
    finally:
        cached_tasks.forget()
    assert re.search(
        r"^cache of task 'cached_pairs' in .* cannot be read: HTTP 503", str(told.value)
    )
