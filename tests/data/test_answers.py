import functools

import pytest
import seqio
import tensorflow as tf
from t5.data import postprocessors
from t5.evaluation import metrics

from switch_tf.data.answers import are_there, right_answers, unlabelled
from switch_tf.errors import UserError
from tests.helpers import task_data

BYTES = seqio.ByteVocabulary(extra_ids=100)
CLASSES = functools.partial(
    postprocessors.string_label_to_class_id, label_classes=("entailment", "neutral")
)


def test_wrong_answers_of_a_rank_classification_are_left_out():
    dataset = tf.data.Dataset.from_tensor_slices({"n": [0, 1, 2, 3], "is_correct": [1, 0, 0, 1]})
    assert [example["n"] for example in right_answers(dataset).as_numpy_iterator()] == [0, 3]


def test_other_examples_are_all_taken():
    dataset = tf.data.Dataset.from_tensor_slices({"n": [0, 1]})
    assert right_answers(dataset) is dataset


def task_of(postprocess_fn, examples=None, metric_fns=(metrics.accuracy,)):
    def read(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices(examples)

    return seqio.Task(
        "answers",
        source=seqio.FunctionDataSource(read, ["test"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={name: seqio.Feature(BYTES) for name in ("inputs", "targets")},
        postprocess_fn=postprocess_fn,
        metric_fns=list(metric_fns),
    )


def texts(*targets, **others):
    return [{"targets_pretokenized": target.encode()} | others for target in targets]


def of_own_classes(text, **unused):
    return {"yes": 1, "no": 0}.get(text, -1)


@pytest.mark.parametrize(
    "function, with_answers, without",
    [
        (CLASSES, texts("neutral", "entailment"), texts("<unk>", "<unk>")),
        (CLASSES, texts("neutral"), texts("", "what else is in the file")),
        (postprocessors.string_to_float, texts("0.0", "4.2"), texts("-1.0")),
        (postprocessors.multirc, texts("True", **{"idx/question": 0}), texts("<unk>")),
        (postprocessors.wsc_simple, texts("Ann", label=0), texts("Ann", label=-1)),
        (postprocessors.qa, texts("Rome", answers=[b"Rome"]), texts("Rome", answers=[])),
        (postprocessors.record, texts("Rome", answers=[b"Rome"]), texts("<unk>", answers=[])),
        (None, texts("a summary", ""), texts("", "")),
    ],
)
def test_examples_without_answers_are_known_by_their_labels(function, with_answers, without):
    task = task_of(function)
    assert are_there(task, "test", with_answers)
    assert not are_there(task, "test", without)


def test_a_split_without_examples_lacks_no_answers():
    assert are_there(task_of(None), "test", [])


def test_some_examples_without_answers_are_one_line():
    with pytest.raises(UserError) as told:
        are_there(task_of(CLASSES), "test", texts("neutral", "<unk>", "neutral"))
    assert str(told.value) == (
        "'answers', split 'test': 1 of 3 examples have no answer (a label of -1, for example): "
        "remove these, or give them answers"
    )


def test_a_function_of_the_users_for_which_nonsense_is_always_right_is_one_line():
    task = task_of(of_own_classes)
    assert are_there(task, "test", texts("yes", "unlabelled"), are_all=True)
    # The first examples alone may be of one class.
    assert are_there(task, "test", texts("unlabelled"))
    with pytest.raises(UserError, match="'answers', split 'test': a text that is no answer would"):
        are_there(task, "test", texts("unlabelled", "unlabelled too"), are_all=True)


@pytest.mark.parametrize("metric_fns, expected", [([metrics.accuracy], ["answers"]), ([], [])])
def test_tasks_without_metrics_are_not_looked_at(metric_fns, expected):
    task = task_of(CLASSES, {"inputs": ["a"], "targets": ["<unk>"]}, metric_fns)
    data = task_data("answers", {"inputs": 8, "targets": 8}, 1, split="test")
    assert unlabelled([task], data) == expected
