import numpy as np
import pytest
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.layers.context import step_seed
from switch_tf.layers.measuring_router import UniformRouter, WorstCaseRouter, ZipfRouter
from tests.layers.test_router import router_of_logits

LOGITS = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)


def test_the_uniform_router_is_in_perfect_balance_and_drops_nothing():
    decision = router_of_logits(4, UniformRouter, capacity_factor=1.0)(LOGITS, training=True)
    assert decision.expert_index_GKS.numpy().tolist() == [[[0, 1, 2, 3] * 2]] * 2
    assert decision.kept_GS.numpy().all()
    np.testing.assert_allclose(decision.load_balancing_loss_G, 1.0, rtol=1e-6)


def test_the_worst_case_fills_expert_0_and_drops_the_rest():
    router = router_of_logits(4, WorstCaseRouter, capacity_factor=1.0, min_capacity=1)
    decision = router(LOGITS, training=True)
    assert (decision.expert_index_GKS.numpy() == 0).all()
    assert decision.kept_GS.numpy().tolist() == [[True] * 2 + [False] * 6] * 2


def test_gates_are_the_probabilities_of_the_given_experts():
    decision = router_of_logits(4, UniformRouter, absolute_capacity=8)(LOGITS)
    places = np.arange(8)
    expected = decision.probabilities_GSE.numpy()[:, places, places % 4]
    np.testing.assert_allclose(decision.gate_GKS[:, 0], expected, rtol=1e-6)


def test_zipf_draws_experts_by_their_rank_from_seed_and_step():
    router = router_of_logits(4, ZipfRouter, exponent=1.0, absolute_capacity=8)
    logits = np.zeros([200, 8, 4], np.float32)
    found = []
    for step in (1, 1, 2):
        with step_seed(tf.constant([3, step])):
            found.append(router(logits, training=True).expert_index_GKS.numpy())
    share_E = np.bincount(found[0].ravel(), minlength=4) / found[0].size
    # 1, 1/2, 1/3, 1/4 over their sum; four standard errors of 1,600 draws.
    np.testing.assert_allclose(share_E, np.array([12, 6, 4, 3]) / 25, atol=0.05)
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_a_skew_below_none_is_told():
    with pytest.raises(UserError, match="ZipfRouter.exponent=-1: give a number of at least 0"):
        ZipfRouter(4, exponent=-1)
