import numpy as np
import pytest

from switch_tf.metrics.means import Means

LAYER = "encoder/layer_1"


def step(loss, seconds, load, max_logit, rate):
    metrics = {
        "loss": loss,
        "routing": {LAYER: {"load_E": np.array(load), "max_logit": max_logit}},
        "not_finite": ["a"],
    }
    return metrics, {"tokens_per_second": rate, "seconds": seconds}


def test_a_period_has_means_rates_of_the_whole_and_the_largest_logit():
    means = Means()
    means.add(*step(2.0, 1.0, [1.0, 0.0], 7.0, 30.0))
    means.add(*step(4.0, 3.0, [0.5, 0.5], 3.0, 10.0))
    assert means.steps == 2
    found = means.take()
    layer = found["routing"][LAYER]
    np.testing.assert_allclose(layer.pop("load_E"), [0.75, 0.25])
    # 60 tokens in 4 seconds.
    assert found == {
        "loss": 3.0,
        "tokens_per_second": 15.0,
        "seconds": 2.0,
        "routing": {LAYER: {"max_logit": 7.0}},
    }


def test_the_next_period_starts_anew():
    means = Means()
    for loss in (2.0, 4.0):
        means.add(*step(loss, 1.0, [1.0, 0.0], loss, 1.0))
        assert means.take()["loss"] == loss
        assert means.steps == 0


@pytest.mark.parametrize("logits", [(1.0, np.nan), (np.nan, 1.0)])
def test_a_logit_that_is_not_finite_is_not_lost(logits):
    means = Means()
    for logit in logits:
        means.add(*step(1.0, 1.0, [1.0, 0.0], logit, 1.0))
    assert np.isnan(means.take()["routing"][LAYER]["max_logit"])
