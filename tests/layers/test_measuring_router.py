import numpy as np

from switch_tf.layers.measuring_router import UniformRouter, WorstCaseRouter
from tests.layers.test_router import router_of_logits

LOGITS = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)


def test_the_uniform_router_is_in_perfect_balance_and_drops_nothing():
    decision = router_of_logits(4, UniformRouter, capacity_factor=1.0)(LOGITS, training=True)
    assert decision.expert_index_GKS.numpy().tolist() == [[[0, 1, 2, 3] * 2]] * 2
    assert decision.kept_GS.numpy().all()
    np.testing.assert_allclose(decision.load_balancing_loss_G, 1.0, rtol=1e-6)


def test_the_worst_case_fills_expert_0_and_drops_the_rest():
    decision = router_of_logits(4, WorstCaseRouter, capacity_factor=1.0)(LOGITS, training=True)
    assert (decision.expert_index_GKS.numpy() == 0).all()
    assert decision.kept_GS.numpy().tolist() == [[True] * 2 + [False] * 6] * 2


def test_gates_are_the_probabilities_of_the_given_experts():
    decision = router_of_logits(4, UniformRouter, absolute_capacity=8)(LOGITS)
    places = np.arange(8)
    expected = decision.probabilities_GSE.numpy()[:, places, places % 4]
    np.testing.assert_allclose(decision.gate_GKS[:, 0], expected, rtol=1e-6)
