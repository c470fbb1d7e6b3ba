import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.errors import UserError
from switch_tf.layers import routing
from switch_tf.layers.context import collect, dropless, step_seed
from switch_tf.layers.group_router import ExpertChoiceRouter, ExpertSelectionRouter, SwitchMaxRouter
from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, Top2Router, TopKRouter
from switch_tf.layers.router import POLICIES, SwitchRouter, load_balancing_loss
from switch_tf.layers.switch_ffn import SwitchFFN
from tests.helpers import compiled, figures_of

argmax_router = functools.partial(SwitchRouter, jitter=0.0)


def router_of_logits(num_experts, kind=argmax_router, **kwargs):
    """A router whose logits are its input."""
    router = kind(num_experts, **kwargs)
    router.build((None, None, num_experts))
    router.kernel.assign(np.eye(num_experts, dtype=np.float32))
    return router


def test_uniform_probabilities_give_a_load_balancing_loss_of_one():
    probabilities_GSE = tf.fill([2, 8, 4], 0.25)
    chosen_GSE = tf.one_hot(tf.constant([[0] * 8, [0, 1, 2, 3] * 2]), 4)
    loss_G = load_balancing_loss(probabilities_GSE, chosen_GSE, tf.ones([2, 8]))
    np.testing.assert_allclose(loss_G, [1.0, 1.0], rtol=1e-6)


def test_a_collapsed_router_has_a_load_balancing_loss_of_the_number_of_experts():
    logits_GSE = np.tile(np.float32([100, 0, 0, 0]), (1, 8, 1))
    decision = router_of_logits(4)(logits_GSE)
    np.testing.assert_allclose(decision.load_balancing_loss_G, [4.0], rtol=1e-6)


def test_a_tie_goes_to_the_first_expert():
    decision = router_of_logits(3)(np.zeros([1, 4, 3], np.float32))
    assert decision.expert_index_GKS.numpy().tolist() == [[[0, 0, 0, 0]]]


def test_the_gate_is_the_probability_of_the_chosen_expert_and_0_for_the_dropped():
    logits_GSE = np.log(np.float32([[[1, 3], [1, 3], [3, 1]]]))
    decision = router_of_logits(2, absolute_capacity=1)(logits_GSE)
    np.testing.assert_allclose(decision.gate_GKS, [[[0.75, 0.0, 0.75]]], rtol=1e-6)
    assert decision.kept_GS.numpy().tolist() == [[True, False, True]]
    assert decision.position_GKS.numpy().tolist() == [[[0, 1, 0]]]


def balance_with_padding(over, kind=SwitchRouter):
    """The balancing loss of balanced tokens and as much padding, all of one choice.

    And the share of its gradient by the logits that lies on padding.
    """
    logits_GSE = np.zeros((2, 16, 4), np.float32)
    logits_GSE[:, np.arange(8), np.arange(8) % 4] = 2.0
    logits_GSE[:, 8:] = [1.0, 0.0, 0.0, 0.0]
    nonpadding_GS = np.repeat(np.float32([[1, 0]] * 2), 8, axis=1)
    router = router_of_logits(4, kind, policy="argmax", load_balancing_over=over)

    @compiled
    def run(logits_GSE):
        with tf.GradientTape() as tape:
            tape.watch(logits_GSE)
            decision = router(logits_GSE, nonpadding_GS)
            loss = routing.Report("layer", decision, 1.0, 0.0).loss()
        return loss, tape.gradient(loss, logits_GSE)

    loss, gradient_GSE = (value.numpy() for value in run(tf.constant(logits_GSE)))
    size_GS = np.abs(gradient_GSE).sum(axis=-1)
    return loss, size_GS[:, 8:].sum() / size_GS.sum()


@pytest.mark.parametrize("kind", [SwitchRouter, Top2Router])
def test_padding_is_kept_out_of_the_load_balancing_loss(kind):
    loss, on_padding = balance_with_padding("tokens", kind)
    np.testing.assert_allclose(loss, 1.0, rtol=1e-5)
    assert on_padding == 0.0


def test_over_positions_padding_rules_the_load_balancing_loss_as_in_mesh_tensorflow():
    loss, on_padding = balance_with_padding("positions")
    # Of a balanced load it would be the share of tokens, 0.5.
    assert loss > 0.6
    assert on_padding > 0.5


def test_groups_weigh_by_their_tokens_in_the_load_balancing_loss():
    logits_GSE = np.log(np.float32([[[1, 3], [3, 1], [1, 3], [3, 1]], [[1, 3]] * 4]))
    nonpadding_GS = np.float32([[1, 1, 1, 1], [1, 0, 0, 0]])
    decision = router_of_logits(2)(logits_GSE, nonpadding_GS)
    loss = routing.Report("layer", decision, 1.0, 0.0).loss()
    # Balanced, 1.0, over four tokens; 2 · 0.75 over one.
    np.testing.assert_allclose(loss, (4 * 1.0 + 1.5) / 5, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_load_balancing_loss_counts_choices_before_any_capacity(factor):
    logits_GSE = np.tile(np.float32([4, 0, 0, 0, 0, 0, 0, 0]), (1, 64, 1))
    router = router_of_logits(8, eval_capacity_factor=factor)
    decision = router(logits_GSE)
    assert int(decision.kept_GS.numpy().sum()) == max(int(8 * factor), 4)
    p = np.exp(4.0) / (np.exp(4.0) + 7)
    np.testing.assert_allclose(decision.load_balancing_loss_G, [8 * 1.0 * p], rtol=1e-5)


def test_an_expert_takes_at_least_four_tokens_of_a_group():
    """As in Mesh-TensorFlow and Flaxformer; by the factor it would be 1 of 192."""
    router = SwitchRouter(128, capacity_factor=1.25)
    assert router.capacity(192, True) == 4
    assert router.capacity(3, True) == 3
    assert SwitchRouter(128, min_capacity=2).capacity(192, True) == 2


@pytest.mark.parametrize(
    "factor, group_size, least, expected",
    [
        (1.25, 4096, 4, None),
        (1.25, 192, 4, 4 * 128 / 192),
        (1.25, 192, 1, 1 * 128 / 192),
        (1.0, 384, 1, None),
        # More than all of a group is not there.
        (200.0, 384, 1, None),
    ],
)
def test_a_capacity_far_from_its_factor_is_known(factor, group_size, least, expected):
    router = SwitchRouter(128, capacity_factor=factor, min_capacity=least)
    assert router.odd_factor(group_size) == (None if expected is None else pytest.approx(expected))
    for options in ({"dropless": True}, {"absolute_capacity": 1}):
        assert SwitchRouter(128, **options).odd_factor(group_size) is None


JITTERS = (SwitchRouter, SwitchMaxRouter, NoTokenLeftBehindRouter, ExpertSelectionRouter)


@pytest.mark.parametrize("kind", JITTERS)
def test_routers_that_jitter_in_mesh_tensorflow_do_by_default(kind):
    router = router_of_logits(4, kind)
    x_GSM = np.ones([2, 64, 4], np.float32)
    seen = run_in_steps(router, x_GSM, 2, of="logits_GSE")
    assert 0.99 <= seen.min() < 0.991 and 1.009 < seen.max() <= 1.01
    assert (seen[0] != seen[1]).any()
    assert (run_in_steps(router, x_GSM, 1, training=False, of="logits_GSE") == 1.0).all()


@pytest.mark.parametrize("kind", [Top2Router, TopKRouter, ExpertChoiceRouter])
def test_the_other_routers_do_not_jitter_unless_asked(kind):
    x_GSM = np.ones([2, 8, 4], np.float32)
    assert (run_in_steps(router_of_logits(4, kind), x_GSM, 1, of="logits_GSE") == 1.0).all()
    asked = router_of_logits(4, kind, policy="input_jitter")
    assert (run_in_steps(asked, x_GSM, 1, of="logits_GSE") != 1.0).any()


def gradient_of_the_router(coefficient):
    def router(**kwargs):
        return SwitchRouter(load_balancing_coef=coefficient, jitter=0.0, **kwargs)

    layer = SwitchFFN(4, 8, router=router, name="same")
    layer.build((2, 8, 6))
    x_BLM = np.random.default_rng(0).normal(size=(2, 8, 6)).astype(np.float32)

    @compiled
    def run(x_BLM):
        with tf.GradientTape() as tape, collect() as reports:
            loss = tf.reduce_sum(layer(x_BLM)) + reports[0].loss()
        return tape.gradient(loss, layer.router.kernel.value)

    return run(x_BLM).numpy()


def test_the_load_balancing_loss_reaches_the_router():
    without, with_loss = gradient_of_the_router(0.0), gradient_of_the_router(1e-2)
    assert np.abs(without).max() > 0
    assert np.abs(with_loss - without).max() > 1e-5


def test_the_z_loss_is_the_mean_square_of_log_z_over_tokens():
    logits_GSE = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    nonpadding_GS = np.float32([[1, 1, 1, 0], [1, 0, 0, 0]])
    decision = router_of_logits(3)(logits_GSE, nonpadding_GS)
    report = routing.Report("layer", decision, load_balancing_coef=0.0, z_loss_coef=0.5)
    log_z_GS = np.log(np.exp(logits_GSE).sum(-1))
    expected = 0.5 * (log_z_GS**2 * nonpadding_GS).sum() / 4
    np.testing.assert_allclose(report.loss(), expected, rtol=1e-5)


def test_jitter_scales_the_input_in_training_alone():
    router = router_of_logits(4, jitter=0.1)

    @compiled
    def run(x_GSM, step, training=True):
        with step_seed(step):
            return router(x_GSM, training=training).logits_GSE

    x_GSM = np.ones([2, 64, 4], np.float32)
    first = run(x_GSM, tf.constant([0, 1])).numpy()
    assert 0.9 <= first.min() < 0.91 and 1.09 < first.max() <= 1.1
    assert (first == run(x_GSM, tf.constant([0, 1])).numpy()).all()
    assert (first != run(x_GSM, tf.constant([0, 2])).numpy()).any()
    assert (run(x_GSM, tf.constant([0, 1]), training=False).numpy() == 1.0).all()


@pytest.mark.parametrize("training, expected", [(True, 5), (False, 8)])
def test_training_and_evaluation_have_capacities_of_their_own(training, expected):
    router = SwitchRouter(8, capacity_factor=1.25, eval_capacity_factor=2.0)
    assert router.capacity(32, training) == expected
    with dropless():
        assert router.capacity(32, training) == 32


def test_a_dropless_router_has_room_for_a_whole_group():
    logits_GSE = np.tile(np.float32([100, 0, 0, 0]), (2, 8, 1))
    for training in (True, False):
        decision = router_of_logits(4, dropless=True)(logits_GSE, training=training)
        assert decision.capacity == 8
        assert decision.kept_GS.numpy().all()


@pytest.mark.parametrize("policy", POLICIES)
def test_in_bfloat16_noise_logits_and_softmax_round_and_places_do_not(policy):
    x_GSM = np.random.default_rng(0).normal(size=(1, 600, 2)).astype(np.float32)
    x_GSM[..., 0] = np.abs(x_GSM[..., 0]) + 100.0
    router = router_of_logits(2, SwitchRouter, policy=policy, dtype="bfloat16", dropless=True)

    @compiled
    def run(x_GSM):
        with step_seed(tf.constant([0, 1])):
            decision = router(x_GSM, training=True)
        return decision.logits_GSE, decision.probabilities_GSE, decision.position_GKS

    *rounded, position_GKS = run(x_GSM)
    assert router.kernel.value.dtype == tf.float32
    for value in rounded:
        assert value.dtype == tf.float32
        np.testing.assert_array_equal(value, tf.cast(tf.cast(value, tf.bfloat16), tf.float32))
    if policy != "input_dropout":
        # All to one expert: beyond 256 places a bfloat16 would miss some.
        assert position_GKS.numpy().tolist() == [[list(range(600))]]


def test_an_absolute_capacity_is_cut_to_the_group():
    router = SwitchRouter(8, absolute_capacity=20)
    assert [router.capacity(n, True) for n in (9, 20, 64)] == [9, 20, 20]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 64), st.floats(0.01, 10.0), st.integers(1, 50))
def test_capacity_is_an_even_split_times_the_factor_within_its_bounds(
    group_size, num_experts, factor, least
):
    capacity = routing.expert_capacity(group_size, num_experts, factor, least)
    assert min(least, group_size) <= capacity <= group_size
    even = int(group_size * factor / num_experts)
    assert capacity == even or capacity in (least, group_size)
    assert routing.expert_capacity(group_size, num_experts, factor * 2, least) >= capacity
    if factor >= num_experts:
        assert capacity == group_size


def test_figures_say_what_the_router_did():
    logits_GSE = np.log(np.float32([[[1, 3], [1, 3], [3, 1], [3, 1]], [[1, 3]] * 4]))
    nonpadding_GS = np.float32([[1, 1, 1, 1], [1, 1, 0, 0]])
    decision = router_of_logits(2, absolute_capacity=1)(logits_GSE, nonpadding_GS)
    report = routing.Report("layer", decision, load_balancing_coef=0.5, z_loss_coef=0.0)
    figures = figures_of(report)
    np.testing.assert_allclose(figures["load_E"], [2 / 6, 4 / 6], rtol=1e-6)
    np.testing.assert_allclose(figures["dropped"], 3 / 6, rtol=1e-6)
    np.testing.assert_allclose(figures["gate_mean"], 0.75, rtol=1e-6)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(figures["entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(figures["z_loss"], np.log(4.0) ** 2, rtol=1e-5)
    # First group of four balanced, 1.0; in the second, of two tokens, all choose one: 2 · 0.75.
    balance = (4 * 1.0 + 2 * 1.5) / 6
    np.testing.assert_allclose(figures["load_balancing_loss"], balance, rtol=1e-6)
    np.testing.assert_allclose(figures["weighted_loss"], 0.5 * balance, rtol=1e-6)
    np.testing.assert_allclose(figures["weighted_loss"], report.loss(), rtol=1e-6)
    np.testing.assert_allclose(figures["max_logit"], np.log(3.0), rtol=1e-6)


@pytest.mark.parametrize(
    "kind, options",
    [
        (SwitchRouter, {"jitter": 0.0}),
        (Top2Router, {}),
        (ExpertChoiceRouter, {}),
        (ExpertSelectionRouter, {}),
    ],
)
def test_the_logged_balance_is_one_for_balanced_tokens_whatever_padding_chooses(kind, options):
    # Tokens share the experts evenly; all padding wants the first, and a group has nothing else.
    logits_GSE = np.zeros((3, 8, 2), np.float32)
    logits_GSE[:, ::2, 0] = logits_GSE[:, 1::2, 1] = 2.0
    logits_GSE[1:, 4:] = [5.0, 0.0]
    nonpadding_GS = np.ones((3, 8), np.float32)
    nonpadding_GS[1, 4:] = nonpadding_GS[2] = 0.0
    decision = router_of_logits(2, kind, **options)(logits_GSE, nonpadding_GS)
    report = routing.Report("layer", decision, load_balancing_coef=0.5, z_loss_coef=0.0)
    figures = figures_of(report)
    np.testing.assert_allclose(figures["load_balancing_loss"], 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "options, line",
    [
        (
            {"absolute_capacity": 0},
            "SwitchRouter.absolute_capacity=0: give a whole number of at least 1",
        ),
        ({"min_capacity": -1}, "SwitchRouter.min_capacity=-1: give a whole number of at least 0"),
        (
            {"capacity_factor": -1.0},
            "SwitchRouter.capacity_factor=-1.0: give a number of at least 0",
        ),
        ({"temperature": 0.0}, "SwitchRouter.temperature=0.0: give a number above 0"),
        (
            {"input_dropout_rate": 1.0},
            "SwitchRouter.input_dropout_rate=1.0: give a number of at least 0 and less than 1",
        ),
        (
            {"load_balancing_over": "experts"},
            "SwitchRouter.load_balancing_over='experts': give 'tokens' or 'positions'",
        ),
        ({"dtype": "float16"}, "Router.dtype='float16': give 'float32', 'bfloat16' or 'float64'"),
    ],
)
def test_a_number_that_cannot_be_is_told(options, line):
    with pytest.raises(UserError) as caught:
        SwitchRouter(4, **options)
    assert line in str(caught.value)


def test_experts_that_take_nothing_are_told():
    router = router_of_logits(4, min_capacity=0, eval_capacity_factor=0.1)
    with pytest.raises(UserError) as caught:
        router(np.zeros((1, 8, 4), np.float32))
    assert str(caught.value) == (
        "an expert of SwitchRouter takes 0 of 8 tokens at a capacity factor of 0.1: raise it, or "
        "set Router.min_capacity=1"
    )


def run_in_steps(router, logits_GSE, steps, training=True, of="expert_index_GKS"):
    """A field of the routing of the same logits, step by step."""

    @compiled
    def run(seed):
        with step_seed(seed):
            return getattr(router(logits_GSE, training=training), of)

    return np.stack([run(tf.constant([0, step])).numpy() for step in range(steps)])


def test_sampling_draws_by_the_softmax_at_the_temperature():
    logits_GSE = np.tile(np.log(np.float32([1, 2, 5])), (1, 2000, 1))
    for temperature, shares in ((1.0, [1 / 8, 2 / 8, 5 / 8]), (0.5, [1 / 30, 4 / 30, 25 / 30])):
        router = router_of_logits(3, SwitchRouter, policy="sample", temperature=temperature)
        drawn = run_in_steps(router, logits_GSE, 2)
        np.testing.assert_allclose(np.bincount(drawn.ravel()) / drawn.size, shares, atol=0.03)
        assert (drawn[0] != drawn[1]).any()
        assert (run_in_steps(router, logits_GSE, 1, training=False) == 2).all()


def test_the_gate_of_a_sampled_expert_is_its_probability():
    logits_GSE = np.tile(np.log(np.float32([1, 3])), (1, 50, 1))
    decision = router_of_logits(2, SwitchRouter, policy="sample", absolute_capacity=50)(
        logits_GSE, training=True
    )
    expected = np.float32([0.25, 0.75])[decision.expert_index_GKS]
    np.testing.assert_allclose(decision.gate_GKS, expected, rtol=1e-6)


def test_input_dropout_zeroes_inputs_and_scales_the_rest():
    router = router_of_logits(4, SwitchRouter, policy="input_dropout", input_dropout_rate=0.25)
    x_GSM = np.ones([2, 500, 4], np.float32)
    seen = router(x_GSM, training=True).logits_GSE.numpy()
    assert set(np.unique(seen)) == {0.0, np.float32(1 / 0.75)}
    assert 0.72 < (seen > 0).mean() < 0.78
    assert (router(x_GSM).logits_GSE.numpy() == 1.0).all()


def test_policies_of_training_and_evaluation_are_chosen_apart():
    router = router_of_logits(4, SwitchRouter, policy="argmax", eval_policy="input_jitter")
    x_GSM = np.ones([2, 8, 4], np.float32)
    assert (router(x_GSM, training=True).logits_GSE.numpy() == 1.0).all()
    assert (router(x_GSM).logits_GSE.numpy() != 1.0).any()


@pytest.mark.parametrize("name", ["policy", "eval_policy"])
def test_an_unknown_policy_is_told(name):
    with pytest.raises(UserError, match=f"SwitchRouter.{name}='max': give 'argmax', 'sample'"):
        SwitchRouter(4, **{name: "max"})
