import pytest
import seqio

from switch_tf.errors import UserError
from switch_tf.training.evaluation import Evaluation, _numbers


@pytest.mark.parametrize("name", ["batches", "decode_examples"])
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
