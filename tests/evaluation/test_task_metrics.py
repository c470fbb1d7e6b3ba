import numpy as np
import pytest
import seqio
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.evaluation import task_metrics
from switch_tf.evaluation.task_metrics import TaskEvaluator, _numbers
from switch_tf.evaluation.teacher_forced import EvaluationInterrupt
from switch_tf.inference.decoding import GreedyDecoder
from tests import toy_task
from tests.helpers import task_data, tiny_model, using


def test_metrics_that_are_no_numbers_are_left_out():
    values = {
        "accuracy": seqio.metrics.Scalar(50.0),
        "count": 3,
        "text": seqio.metrics.Text("an answer"),
        "of an array": seqio.metrics.Scalar(np.array(0.5, np.float32)),
        "of a tensor": tf.constant(7),
    }
    numbers = {"accuracy": 50.0, "count": 3.0, "of an array": 0.5, "of a tensor": 7.0}
    assert _numbers("a_task", values) == numbers
    with pytest.raises(UserError, match="^metric 'a' of task 'a_task' is .1, 2.: have it "):
        _numbers("a_task", {"a": [1, 2]})


def test_batches_of_a_split_are_as_long_as_its_longest_example_and_hold_each_once():
    seen = []

    def function(features):
        seen.append({name: array.shape for name, array in features.items()})
        return features["decoder_target_tokens"].tolist()

    lengths = {"inputs": 40, "targets": 20}
    with using(("batch:4", "batch:batch")) as mesh:
        decoded = TaskEvaluator(None, mesh, task_data("toy_copy", lengths, 4, split="validation"))
        (dataset,) = decoded._evaluator.cached_model_datasets.values()
        with mesh_lib.host():
            outputs = decoded._by_index(function, dataset, lambda: False)
            examples = list(dataset.as_numpy_iterator())
            with pytest.raises(EvaluationInterrupt):
                decoded._by_index(function, dataset, lambda: len(seen) == 4)
    # Five letters, a full stop and an end.
    assert seen == 4 * [dict.fromkeys(seen[0], (4, 8))]
    assert [index for index, _ in outputs] == list(range(toy_task.NUM_VALIDATION))
    for (_, output), (_, features) in zip(outputs, examples, strict=True):
        assert np.pad(output, (0, 12)).tolist() == features["decoder_target_tokens"].tolist()


@pytest.fixture
def metric_is(monkeypatch):
    """Gives the toy task a metric."""

    def give(function):
        own = seqio.metrics.PassthroughLegacyMetric.from_metric_fn(function)
        task = seqio.get_mixture_or_task("toy_copy")
        monkeypatch.setattr(type(task), "metric_objs", property(lambda self: [own]))

    return give


def same_of_ten(targets, predictions):
    if len(targets) < 10:
        raise ValueError("too few")
    assert targets == predictions
    return {"same": 100.0}


def wants_numbers(targets, predictions):
    return {"same": targets[0] / 2}


@pytest.mark.parametrize("few", [4, 100])
def test_metrics_are_tried_on_right_answers_and_on_all_where_few_do_not_do(
    metric_is, monkeypatch, few
):
    monkeypatch.setattr(task_metrics, "_TRIED", few)
    data = task_data("toy_copy", {"inputs": 8, "targets": 8}, 4, split="validation")
    with using(("batch:2", "batch:batch")) as mesh:
        metric_is(same_of_ten)
        TaskEvaluator(None, mesh, data).check()
        metric_is(wants_numbers)
        with pytest.raises(UserError, match=r"test_task_metrics.py:\d+, in wants_numbers: TypeErr"):
            TaskEvaluator(None, mesh, data).check()


def test_where_no_task_has_metrics_there_is_nothing_to_try():
    toy = seqio.get_mixture_or_task("toy_copy")
    seqio.TaskRegistry.add(
        "toy_bare",
        source=toy.source,
        preprocessors=toy.preprocessors,
        output_features=toy.output_features,
    )
    data = task_data("toy_bare", {"inputs": 8, "targets": 8}, 4, split="validation")
    try:
        with using(("batch:2", "batch:batch")) as mesh:
            evaluator = TaskEvaluator(None, mesh, data)
            assert evaluator.tasks == []
            evaluator.check()
    finally:
        seqio.TaskRegistry.remove("toy_bare")


def raises(targets, predictions):
    raise KeyError("an answer")


def returns_nothing(targets, predictions):
    pass


def returns_no_number(targets, predictions):
    return {"accuracy": object()}


@pytest.mark.parametrize(
    "metric, told",
    [
        (
            raises,
            r"'toy_copy', split 'validation': \S*test_task_metrics.py:\d+, in raises: KeyError: "
            "'an answer'$",
        ),
        (
            returns_nothing,
            "'toy_copy', split 'validation': SeqIO cannot use what the task's metrics return: "
            "ValueError: Failed to evaluate task toy_copy: 'NoneType' object has no attribute "
            "'items': see its metric_fns, metric_objs and postprocess_fn$",
        ),
        (returns_no_number, "metric 'accuracy' of task 'toy_copy' is <object object at "),
    ],
)
def test_an_error_of_a_metric_is_one_line_with_its_place(
    metric, told, metric_is, monkeypatch, caplog
):
    monkeypatch.setattr(GreedyDecoder, "__call__", lambda self, x: np.ones((len(x), 8), np.int32))
    metric_is(metric)
    data = task_data("toy_copy", {"inputs": 8, "targets": 8}, 4, split="validation")
    with using(("batch:2", "batch:batch")) as mesh:
        evaluator = TaskEvaluator(tiny_model(vocab_size=384, built=False), mesh, data)
        with pytest.raises(UserError, match=f"^{told}"):
            evaluator.run(0)
    assert "Failed to evaluate" not in caplog.text
