import numpy as np
import pytest
import seqio

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.task_metrics import TaskEvaluator, _numbers
from tests import toy_task
from tests.helpers import task_data, using


@pytest.mark.parametrize("name", ["batches", "batch_size", "decode_examples"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_a_limit_that_is_no_count_is_told(name, value):
    with pytest.raises(UserError, match=f"Evaluation.{name}={value}: give a whole number"):
        Evaluation(**{name: value})


def test_metrics_that_are_no_numbers_are_left_out():
    values = {
        "accuracy": seqio.metrics.Scalar(50.0),
        "count": 3,
        "text": seqio.metrics.Text("an answer"),
    }
    assert _numbers(values) == {"accuracy": 50.0, "count": 3.0}


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
    # Five letters, a full stop and an end.
    assert seen == 3 * [dict.fromkeys(seen[0], (4, 8))]
    assert [index for index, _ in outputs] == list(range(toy_task.NUM_VALIDATION))
    for (_, output), (_, features) in zip(outputs, examples, strict=True):
        assert np.pad(output, (0, 12)).tolist() == features["decoder_target_tokens"].tolist()
