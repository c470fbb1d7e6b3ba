import math

import numpy as np
import pytest
import seqio
import tensorflow as tf
from t5.data import preprocessors

from switch_tf.data import features
from switch_tf.data.batch_shape import feature_axes
from switch_tf.errors import UserError
from tests.helpers import assert_same_batches, joined, task_data

LENGTHS = {"inputs": 32, "targets": 24}
BYTES = seqio.ByteVocabulary(extra_ids=100)
NUM_VALIDATION = 11


def documents(split, shuffle_files, seed=None):
    n = {"train": 60, "validation": NUM_VALIDATION, "empty": 0}[split]
    texts = [f"document {i:03d} " + "abcdefgh"[i % 8] * (i % 13) for i in range(n)]
    columns = {"inputs": [""] * n, "targets": texts}
    return tf.data.Dataset.from_tensor_slices(
        {name: tf.constant(column, tf.string) for name, column in columns.items()}
    )


def copies(dataset):
    return dataset.map(lambda x: {"inputs": x["targets"], "targets": x["targets"]})


def broken(dataset):
    def read(text):
        raise UserError("data.jsonl, line 3: no JSON; mend or delete the line")

    def example(x):
        return {k: tf.ensure_shape(tf.py_function(read, [v], tf.string), []) for k, v in x.items()}

    return dataset.map(example)


def by_function(dataset):
    """A step of the user's own, in Python, which TensorFlow takes to have a state."""

    def example(x):
        text = tf.numpy_function(lambda text: text.upper(), [x["targets"]], tf.string)
        return {name: tf.ensure_shape(text, []) for name in ("inputs", "targets")}

    return dataset.map(example)


def add_task(name, first, vocabulary=BYTES, last=seqio.preprocessors.append_eos_after_trim):
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(documents, ["train", "validation", "empty"]),
            preprocessors=[*first, last],
            output_features={k: seqio.Feature(vocabulary) for k in ("inputs", "targets")},
        )
    return seqio.TaskRegistry.get(name)


SPANS = add_task("features_spans", [seqio.preprocessors.tokenize, preprocessors.span_corruption])
COPY = add_task("features_copy", [copies, seqio.preprocessors.tokenize])
add_task("features_function", [by_function, seqio.preprocessors.tokenize])
add_task("features_broken", [broken, seqio.preprocessors.tokenize])
if "features_mixture" not in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.add("features_mixture", [("features_spans", 1), ("features_copy", 2)])
KINDS = [("features_spans", False), ("features_copy", True), ("features_mixture", True)]


def train(name, pack=False, seed=1):
    return features.train_dataset(task_data(name, LENGTHS, 4, pack=pack, seed=seed))


def numpy(batches):
    return [{k: np.asarray(v) for k, v in batch.items()} for batch in batches]


def real_rows(batches):
    rows = np.concatenate([b["decoder_target_tokens"] for b in batches])
    return [tuple(row) for row in rows if row.any()]


def evaluation(name, batch_size=4, split="validation"):
    return features.eval_dataset(task_data(name, LENGTHS, batch_size, split=split))


@pytest.mark.parametrize("pack", [False, True])
def test_features_are_int32_of_batch_by_length(pack):
    (batch,) = numpy(train("features_mixture", pack).take(1))
    lengths = {"encoder": LENGTHS["inputs"], "decoder": LENGTHS["targets"]}
    assert ("encoder_segment_ids" in batch) == pack
    assert len(batch) == (8 if pack else 4)
    for name, value in batch.items():
        assert feature_axes(name) == ("batch", "length")
        assert value.shape == (4, lengths[name.split("_")[0]]) and value.dtype == np.int32


@pytest.mark.parametrize("name, pack", KINDS)
def test_seed_alone_decides_the_batches(name, pack):
    first = numpy(train(name, pack, seed=1).take(20))
    assert_same_batches(first, numpy(train(name, pack, seed=1).take(20)))
    other = numpy(train(name, pack, seed=2).take(20))
    assert real_rows(first) != real_rows(other)


def test_training_data_never_end():
    rows = real_rows(numpy(train("features_copy").take(45)))
    assert len(rows) == 180 and 40 < len(set(rows)) <= 60


@pytest.mark.parametrize("name, pack", [*KINDS, ("features_function", False)])
def test_restored_iterator_gives_the_next_batches(name, pack, tmp_path):
    iterator = iter(train(name, pack))
    passed = numpy(next(iterator) for _ in range(7))
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "position"))
    expected = numpy(next(iterator) for _ in range(30))
    restored = iter(train(name, pack))
    tf.train.Checkpoint(iterator=restored).read(path).assert_consumed()
    assert_same_batches(numpy(next(restored) for _ in range(30)), expected)
    assert real_rows(passed) != real_rows(expected[:7])


@pytest.mark.parametrize("batch_size", [4, 11, 16])
def test_evaluation_sees_each_example_once_in_full_batches(batch_size):
    dataset = evaluation("features_copy", batch_size)
    batches = numpy(dataset)
    assert dataset.element_spec["decoder_target_tokens"].shape[0] == batch_size
    assert len(batches) == math.ceil(NUM_VALIDATION / batch_size)
    assert {b["decoder_target_tokens"].shape for b in batches} == {(batch_size, 24)}
    texts = sorted(x["targets"].numpy().decode() for x in documents("validation", False))
    decoded = [BYTES.decode([int(t) for t in row if t > 1]) for row in real_rows(batches)]
    assert sorted(decoded) == sorted(text[:23] for text in texts)
    padding = batches[-1]["decoder_target_tokens"].any(axis=1) == 0
    assert padding.sum() == -NUM_VALIDATION % batch_size
    assert all(not value[padding].any() for value in batches[-1].values())


@pytest.mark.parametrize("pack", [False, True])
def test_hosts_evaluate_each_example_once_in_as_many_batches(pack):
    """Of 11 examples, in rows that do not divide over the hosts."""

    def batches(**hosts):
        data = task_data("features_copy", LENGTHS, 4, split="validation", pack=pack)
        return numpy(features.eval_dataset(data, **hosts))

    for num_hosts in (2, 4):
        parts = [batches(host=host, num_hosts=num_hosts) for host in range(num_hosts)]
        assert_same_batches(joined(parts), batches())


@pytest.mark.parametrize("num_batches", [None, 2])
@pytest.mark.parametrize("pack", [False, True])
def test_evaluations_are_alike_and_shuffled(pack, num_batches):
    data = task_data("features_spans", {"inputs": 16, "targets": 16}, 2, pack=pack)
    dataset = features.eval_dataset(data, num_batches)
    first = numpy(dataset)
    assert_same_batches(first, numpy(dataset))
    assert_same_batches(first, numpy(features.eval_dataset(data, num_batches)))
    if num_batches:
        assert len(first) == num_batches


def test_evaluation_leaves_the_order_of_the_files():
    dataset = evaluation("features_copy", split="train")
    texts = [BYTES.decode([int(t) for t in row if t > 1]) for row in real_rows(numpy(dataset))]
    assert texts != sorted(texts) and len(texts) == 60


def test_mixture_is_evaluated_as_its_tasks():
    datasets = features.eval_datasets(task_data("features_mixture", LENGTHS, 4, split="validation"))
    assert list(datasets) == ["features_copy", "features_spans"]
    with pytest.raises(UserError, match="'features_mixture' is a mixture"):
        evaluation("features_mixture")


def test_unknown_split_lists_the_splits():
    with pytest.raises(UserError, match="no such split; it has empty, train, validation"):
        features.train_dataset(task_data("features_copy", LENGTHS, 4, split="test"))


@pytest.mark.parametrize("make", ["train", "eval"])
def test_empty_dataset_is_reported_at_once(make):
    with pytest.raises(
        UserError, match="split 'empty', has no examples: its source .function documents. is"
    ):
        if make == "train":
            features.train_dataset(task_data("features_copy", LENGTHS, 4, split="empty"))
        else:
            evaluation("features_copy", split="empty")


def test_error_of_a_reader_becomes_one_line():
    with pytest.raises(UserError) as raised:
        train("features_broken")
    assert str(raised.value) == "data.jsonl, line 3: no JSON; mend or delete the line"


def test_vocabulary_must_fit_the_model():
    size = BYTES.vocab_size
    features.check_vocabulary(SPANS, size)
    mixture = seqio.MixtureRegistry.get("features_mixture")
    with pytest.raises(
        UserError, match=rf"has {size} tokens, but the model's VOCAB_SIZE is {size - 1}"
    ):
        features.check_vocabulary(mixture, size - 1)


def test_span_corruption_needs_sentinels():
    few = seqio.ByteVocabulary(extra_ids=10)
    steps = [seqio.preprocessors.tokenize, preprocessors.span_corruption]
    told = "has 10 sentinels at its end, but span corruption needs 100: give it extra_ids=100"
    with pytest.raises(UserError, match=told):
        features.check_vocabulary(add_task("features_few_sentinels", steps, few), 1000)
    features.check_vocabulary(add_task("features_few_copy", [copies], few), 1000)


def test_vocabulary_needs_pad_0_and_eos_1():
    wrong = seqio.PassThroughVocabulary(100, eos_id=2)
    with pytest.raises(UserError, match="pad 0 and eos 2"):
        features.check_vocabulary(add_task("features_wrong_eos", [copies], wrong), 1000)


class UnknownIsPadding(seqio.PassThroughVocabulary):
    @property
    def unk_id(self):
        return 0


def test_what_is_unknown_has_an_id_of_its_own():
    wrong = UnknownIsPadding(100, eos_id=1)
    with pytest.raises(UserError, match="has unknown 0, which must be one of its 100 pieces"):
        features.check_vocabulary(add_task("features_wrong_unk", [copies], wrong), 1000)


def test_missing_vocabulary_file_is_one_line(tmp_path):
    gone = seqio.SentencePieceVocabulary(str(tmp_path / "gone.model"))
    task = add_task("features_gone", [copies], gone)
    with pytest.raises(UserError, match="gone.model") as raised:
        features.check_vocabulary(task, 1000)
    assert "\n" not in str(raised.value)


def fails(task):
    return {}[task.name]


@pytest.mark.parametrize(
    "rate, told",
    [
        (
            fails,
            r"cannot be computed: \S*test_features.py:\d+, in fails: KeyError: 'features_copy'",
        ),
        (lambda task: -1.0, "is -1.0: give a number of at least 0"),
        (lambda task: float("nan"), "is nan: give a number of at least 0"),
        (lambda task: None, r"cannot be computed: TypeError: float\(\) argument must be a string"),
        # SeqIO's own, of a source that cannot tell its number of examples.
        (seqio.mixing_rate_num_examples, "cannot be computed: TypeError: "),
    ],
)
def test_a_rate_that_seqio_cannot_use_is_one_line(rate, told):
    seqio.MixtureRegistry.add("features_rates", [("features_copy", rate)])
    try:
        what = "^mixture 'features_rates': the rate of task 'features_copy' "
        with pytest.raises(UserError, match=what + told):
            train("features_rates")
    finally:
        seqio.MixtureRegistry.remove("features_rates")


def test_a_mixture_whose_rates_are_all_zero_is_refused():
    seqio.MixtureRegistry.add("features_rates", [("features_copy", 0.0)])
    try:
        with pytest.raises(UserError, match="^mixture 'features_rates': the rates of all its "):
            train("features_rates")
    finally:
        seqio.MixtureRegistry.remove("features_rates")
