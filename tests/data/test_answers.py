import functools

import numpy as np
import pytest
import seqio
import tensorflow as tf
from t5.data import postprocessors
from t5.evaluation import metrics

from switch_tf.data.answers import Look, are_there, looks, metrics_of, right_answers, unlabelled
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


@pytest.mark.parametrize("label", [-1, -1.0, np.int64(-1), np.float32(-1)])
def test_labels_of_minus_one_of_any_type_are_no_answers(label):
    inputs = {"inputs": ["a"] * 3, "targets": ["no"] * 3, "label": np.array([label] * 3)}
    assert not all_there(task_of(None, inputs))
    labels = np.array([label] * 2 + [0]).astype(np.asarray(label).dtype)
    with pytest.raises(UserError, match="2 of 3 examples have no answer"):
        all_there(task_of(None, inputs | {"label": labels}))


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
    def is_yes(text, **unused):
        return int(text == "yes")

    task = task_of(is_yes)
    assert are_there(task, "test", texts("yes", "no"), are_all=True)
    # The first examples alone may be of one class.
    assert are_there(task, "test", texts("no"))
    with pytest.raises(UserError, match="'answers', split 'test': a text that is no answer would"):
        are_there(task, "test", texts("no", "nor this"), are_all=True)


def test_a_function_of_the_users_that_gives_none_has_no_answers():
    assert not are_there(task_of(of_own_classes), "test", texts("unlabelled", "what else"))
    with pytest.raises(UserError, match="1 of 2 examples have no answer"):
        are_there(task_of(of_own_classes), "test", texts("yes", "what else"))


DATA = task_data("answers", {"inputs": 8, "targets": 8}, 1, split="test")


@pytest.mark.parametrize("metric_fns", [[metrics.accuracy], []])
def test_a_split_whose_first_examples_have_no_answers_is_found(metric_fns):
    task = task_of(CLASSES, {"inputs": ["a"], "targets": ["<unk>"]}, metric_fns)
    assert unlabelled([task], DATA) == ["answers"]


def test_of_tasks_without_metrics_or_a_text_of_the_target_nothing_is_read():
    task = task_of(None, {"inputs": ["a"], "targets": ["b"]}, [])
    tokens = seqio.Task(
        *("answers", task.source, task.output_features),
        preprocessors=[functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False)],
    )
    assert not looks([tokens], DATA, None)


def all_there(task):
    return looks([task], DATA, None)["answers"].are_there()


@pytest.mark.parametrize(
    "function, last",
    [
        (CLASSES, ["<unk>"]),
        (of_own_classes, ["<unk>", "what else"]),
        (lambda text, **unused: text, ["-1"]),
        (None, ["?", "?"]),
        (None, ["-1", "?"]),
    ],
)
def test_examples_without_answers_behind_the_first_ones_are_found(function, last):
    answer = "neutral" if function is CLASSES else "yes"
    targets = [answer] * 101 + last
    task = task_of(function, {"inputs": ["a"] * len(targets), "targets": targets})
    assert unlabelled([task], DATA) == []
    with pytest.raises(UserError, match=f"{len(last)} of {101 + len(last)} examples have no answe"):
        all_there(task)


@pytest.mark.parametrize(
    "function", [None, of_own_classes, lambda text, **unused: text, postprocessors.lower_text]
)
@pytest.mark.parametrize(
    "mark", ["-1", "?", "???", "-", "unlabelled", "N/A", "NA", "-1.0", "<unk>", "", "  "]
)
def test_a_split_of_marks_alone_has_no_answers(function, mark):
    task = task_of(function, {"inputs": ["a"] * 3, "targets": [mark] * 3})
    assert not all_there(task)


@pytest.mark.parametrize(
    "targets", [["-1", "3", "-2.5"], ["?", "!"], ["-", "+"], ["none", "yes"], ["5", "0"], ["-7"]]
)
def test_what_may_be_a_mark_is_an_answer_where_others_are_like_it(targets):
    assert all_there(task_of(None, {"inputs": ["a"] * len(targets), "targets": targets}))


def test_a_mark_that_the_training_split_has_is_an_answer():
    def read(split, shuffle_files=False, seed=None):
        targets = ["-1", "0", "1"]
        return tf.data.Dataset.from_tensor_slices({"inputs": ["a"] * 3, "targets": targets})

    task = seqio.Task(
        "answers",
        source=seqio.FunctionDataSource(read, ["train", "test"]),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features={name: seqio.Feature(BYTES) for name in ("inputs", "targets")},
        metric_fns=[metrics.accuracy],
    )
    assert all_there(task)


def ranked(*labels):
    """Questions of two answers each, of which that of the label is right."""
    return [
        {"idx": [question, answer], "is_correct": answer == label}
        for question, label in enumerate(labels)
        for answer in range(2)
    ]


def test_a_question_of_a_rank_classification_has_an_answer_if_one_is_right():
    task = task_of(postprocessors.rank_classification)
    assert are_there(task, "test", ranked(0, 1, 1), are_all=True)
    assert not are_there(task, "test", ranked(-1, -1), are_all=True)
    with pytest.raises(UserError, match="1 of 3 examples have no answer"):
        are_there(task, "test", ranked(0, -1, 1), are_all=True)
    # The last of the first examples may be a wrong answer of a question with a right one.
    assert are_there(task, "test", ranked(0, 1)[:3])


def test_that_nonsense_is_right_for_some_examples_is_told():
    def is_yes(text, **unused):
        return int(text == "yes")

    look = Look(task_of(is_yes), "test", texts("yes", "no", "no"), are_all=True)
    assert look.are_there()
    assert look.note == (
        "'answers', split 'test': a text that is no answer counts as right for 2 of 3 examples: "
        "see the task's postprocess_fn"
    )


def test_a_look_goes_on_where_its_time_ended():
    look = Look(task_of(CLASSES), "test", texts("neutral", "neutral", "<unk>"), are_all=True)
    assert look.are_there(seconds=0) and not look.is_done
    with pytest.raises(UserError, match="1 of 3 examples"):
        look.are_there()


def test_a_metric_whose_arguments_seqio_does_not_know_is_one_line():
    def own(golds, answers): ...

    examples = {"inputs": ["a"], "targets": ["b"]}
    task = task_of(None, examples, metric_fns=(metrics.accuracy, own))
    message = (
        rf"^metric_fns of task '{task.name}' \(accuracy, .*metrics.py:\d+, own, "
        r"tests/data/test_answers.py:\d+\): Metric functions must have positional arguments .* "
        r"Got: \('golds', 'answers'\)$"
    )
    with pytest.raises(UserError, match=message):
        metrics_of(task)
