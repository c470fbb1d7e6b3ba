import numpy as np
import pytest

from switch_tf.errors import UserError
from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, Top2Router, TopKRouter
from switch_tf.layers.router import SwitchRouter
from tests.layers.test_router import router_of_logits, run_in_steps

# Probabilities 5/8, 2/8, 1/8 of experts 0, 1, 2.
LOGITS = np.log(np.float32([5, 2, 1]))


def decide(kind, tokens, **kwargs):
    return router_of_logits(3, kind, **kwargs)(np.tile(LOGITS, (1, tokens, 1)))


def test_top_k_gates_sum_to_one_unless_they_stay_probabilities():
    for normalize, gates in ((True, [5 / 7, 2 / 7]), (False, [5 / 8, 2 / 8])):
        decision = decide(TopKRouter, 1, k=2, normalize_gates=normalize, absolute_capacity=1)
        np.testing.assert_allclose(decision.gate_GKS[0, :, 0], gates, rtol=1e-6)
        assert decision.expert_index_GKS.numpy().tolist() == [[[0], [1]]]


def test_top_1_is_a_switch_router():
    generator = np.random.default_rng(0)
    logits_GSE = generator.normal(size=(3, 8, 4)).astype(np.float32)
    nonpadding_GS = (generator.uniform(size=(3, 8)) < 0.8).astype(np.float32)
    one = router_of_logits(4, TopKRouter, k=1, normalize_gates=False)(logits_GSE, nonpadding_GS)
    other = router_of_logits(4, SwitchRouter, jitter=0.0)(logits_GSE, nonpadding_GS)
    for name in ("expert_index_GKS", "position_GKS", "kept_GKS", "load_balancing_loss_G"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.gate_GKS, other.gate_GKS, rtol=1e-6)


def test_first_choices_of_all_tokens_come_before_second_ones():
    logits_GSE = np.stack([LOGITS, LOGITS[[1, 0, 2]]])[None]
    decision = router_of_logits(3, TopKRouter, absolute_capacity=2)(logits_GSE)
    # Expert 0 is the first choice of token 0 and the second of token 1, expert 1 the reverse.
    assert decision.position_GKS.numpy().tolist() == [[[0, 0], [1, 1]]]
    full = router_of_logits(3, TopKRouter, absolute_capacity=1)(logits_GSE)
    assert full.kept_GKS.numpy().tolist() == [[[True, True], [False, False]]]


@pytest.mark.parametrize(
    "policy, threshold, made", [("all", 0.2, 1), ("none", 0.2, 0), ("threshold", 0.3, 0)]
)
def test_second_choices_are_made_by_the_policy(policy, threshold, made):
    options = {"second_policy": policy, "second_threshold": threshold}
    decision = decide(Top2Router, 2, absolute_capacity=2, **options)
    assert decision.kept_GKS.numpy()[0].sum(axis=1).tolist() == [2, 2 * made]


def test_evaluation_may_have_a_policy_of_its_own():
    router = router_of_logits(
        3, Top2Router, second_policy="all", eval_second_policy="none", absolute_capacity=2
    )
    logits_GSE = np.tile(LOGITS, (1, 2, 1))
    made = [router(logits_GSE, training=t).kept_GKS.numpy()[0, 1].sum() for t in (True, False)]
    assert made == [2, 0]


def test_random_second_choices_are_made_in_proportion_to_their_gate():
    options = {"second_policy": "random", "second_threshold": 4 / 7, "absolute_capacity": 4000}
    decision = decide(Top2Router, 4000, **options)
    assert 0.45 < decision.kept_GKS.numpy()[0, 1].mean() < 0.55


def test_the_second_place_loss_adds_half_of_that_of_the_second_choices():
    with_it = decide(Top2Router, 4, second_place_loss=True).load_balancing_loss_G
    without = decide(Top2Router, 4).load_balancing_loss_G
    # All second choices fall on expert 1, whose share of what is left is 2/3.
    np.testing.assert_allclose(with_it - without, [0.5 * 3 * 2 / 3], rtol=1e-5)


def test_no_token_is_left_behind_while_an_expert_of_its_choice_has_room():
    decision = decide(NoTokenLeftBehindRouter, 4, k=3, absolute_capacity=2)
    assert decision.kept_GKS.numpy().tolist() == [
        [[True, True, False, False], [False, False, True, True], [False] * 4]
    ]
    np.testing.assert_allclose(
        decision.gate_GKS.numpy().sum(1), [[5 / 8, 5 / 8, 2 / 8, 2 / 8]], rtol=1e-6
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TopKRouter(4, k=5), "TopKRouter.k=5 exceeds num_experts=4: lower k"),
        (lambda: NoTokenLeftBehindRouter(2), "NoTokenLeftBehindRouter.k=4 exceeds num_experts=2"),
        (lambda: Top2Router(1), "Top2Router has num_experts=1: give it 2 or more"),
        (
            lambda: Top2Router(4, second_policy="any"),
            "second_policy='any': give 'all', 'none', 'threshold' or 'random'",
        ),
    ],
)
def test_what_does_not_fit_is_told(make, message):
    with pytest.raises(UserError, match=message.replace("'", "'")):
        make()


@pytest.mark.parametrize(
    "router",
    [
        SwitchRouter(4, policy="sample", temperature=2.0, min_capacity=3),
        TopKRouter(4, k=3, normalize_gates=False),
        Top2Router(4, second_policy="all", second_place_loss=True, capacity_factor=2.0),
        NoTokenLeftBehindRouter(4, k=2),
    ],
    ids=lambda router: type(router).__name__,
)
def test_a_router_of_a_config_is_the_same_again(router):
    config = router.get_config()
    assert type(router).from_config(config).get_config() == config


def test_random_second_choices_differ_by_step():
    options = {"second_policy": "random", "second_threshold": 4 / 7}
    router = router_of_logits(3, Top2Router, **options)
    drawn = run_in_steps(router, np.tile(LOGITS, (1, 64, 1)), 2, of="kept_GKS")
    assert (drawn[0] != drawn[1]).any()
