import functools

import numpy as np
import pytest

from switch_tf.evaluation.eval_step import EvalStep
from switch_tf.layers.multi_router import Top2Router
from switch_tf.layers.router import SwitchRouter
from tests.helpers import place_features, random_features, tiny_model, using


@pytest.fixture(scope="module", autouse=True)
def mesh():
    """Batch and experts on two devices."""
    with using(("batch:2", "batch:batch,experts:batch")) as mesh:
        yield mesh


def batch():
    arrays = random_features()
    arrays["decoder_loss_weights"] = (arrays["decoder_target_tokens"] > 0).astype(np.int32)
    return arrays


def sums_of(**kwargs):
    return EvalStep(tiny_model(**kwargs))(place_features(batch()))


def test_there_is_a_figure_at_the_evaluation_capacity_and_a_dropless_one():
    router = functools.partial(SwitchRouter, min_capacity=1)
    sums = sums_of(router=functools.partial(router, eval_capacity_factor=0.25))
    arrays = batch()
    tokens = arrays["encoder_input_tokens"].astype(bool).sum()
    tokens += arrays["decoder_target_tokens"].astype(bool).sum()
    assert sums["routed"] == tokens
    assert 0 < sums["kept"] < tokens
    assert sums["cross_entropy"] != sums["cross_entropy_dropless"]

    roomy = sums_of(router=functools.partial(router, eval_capacity_factor=8.0))
    assert roomy["kept"] == roomy["routed"] == tokens
    assert roomy["cross_entropy"] == pytest.approx(sums["cross_entropy_dropless"], rel=1e-6)


@pytest.mark.parametrize("kwargs", [{"expert_frequency": 0}, {"num_layers": 1}])
def test_a_model_without_sparse_layers_has_one_figure(kwargs):
    sums = sums_of(**kwargs)
    assert sums["cross_entropy"] == sums["cross_entropy_dropless"]
    assert sums["kept"] == sums["routed"] == sums["tokens"]


def test_a_router_that_draws_does_so_alike_in_every_evaluation():
    router = functools.partial(Top2Router, second_policy="random", second_threshold=0.9)
    evaluation, features = EvalStep(tiny_model(router=router)), place_features(batch())
    assert evaluation(features) == evaluation(features)
