import numpy as np
import pytest

from switch_tf.errors import UserError
from switch_tf.layers.context import dropless
from switch_tf.layers.group_router import ExpertChoiceRouter, ExpertSelectionRouter, SwitchMaxRouter
from switch_tf.layers.routing import Report
from switch_tf.mesh import to_numpy
from tests.helpers import compiled, figures_of, place_features, random_features, tiny_model
from tests.layers.test_router import router_of_logits

KINDS = (SwitchMaxRouter, ExpertChoiceRouter, ExpertSelectionRouter)
# Probabilities of experts 0 and 1: token 1 is the likeliest of expert 0, token 3 its least likely.
LOGITS = np.log(np.float32([[[6, 4], [9, 1], [2, 8], [1, 9]]]))


def decide(kind, logits_GSE=LOGITS, nonpadding_GS=None, **kwargs):
    if kind is SwitchMaxRouter:
        kwargs["policy"] = "argmax"
    return router_of_logits(2, kind, **kwargs)(logits_GSE, nonpadding_GS)


def test_a_full_expert_keeps_its_likeliest_tokens():
    decision = decide(SwitchMaxRouter, absolute_capacity=1)
    assert decision.kept_GS.numpy().tolist() == [[False, True, False, True]]
    np.testing.assert_allclose(decision.gate_GKS[0, 0], [0, 0.9, 0, 0.9], rtol=1e-6)


def test_experts_pick_their_likeliest_tokens_and_a_token_may_be_picked_by_all_or_none():
    logits_GSE = np.log(np.float32([[[9, 9], [8, 1], [1, 8], [1, 1]]]))
    decision = router_of_logits(2, ExpertSelectionRouter, absolute_capacity=2)(logits_GSE)
    picked_GKS = [[[True, True, False, False], [True, False, True, False]]]
    assert decision.kept_GKS.numpy().tolist() == picked_GKS
    # The mean over the experts that picked it.
    np.testing.assert_allclose(decision.gate_GKS[0, 0], [9 / 19 / 2, 8 / 19, 0, 0], rtol=1e-6)


def test_the_gate_of_a_picked_token_is_the_probability_of_the_expert():
    decision = decide(ExpertChoiceRouter, absolute_capacity=2)
    assert decision.kept_GKS.numpy()[0, 0].tolist() == [True, True, False, False]
    np.testing.assert_allclose(decision.gate_GKS[0, 0], [0.6, 0.9, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(decision.load_balancing_loss_G, [1.0], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_padding_is_never_picked_and_changes_no_decision(kind):
    without = decide(kind, absolute_capacity=3)
    padded_GSE = np.concatenate([np.full((1, 3, 2), 500, np.float32), LOGITS], axis=1)
    nonpadding_GS = np.float32([[0, 0, 0, 1, 1, 1, 1]])
    decision = decide(kind, padded_GSE, nonpadding_GS, absolute_capacity=3)
    assert not decision.kept_GKS.numpy()[:, :, :3].any()
    for name in ("kept_GKS", "gate_GKS"):
        with_padding = getattr(decision, name).numpy()[:, :, 3:]
        np.testing.assert_allclose(with_padding, getattr(without, name), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_group_of_padding_alone_has_no_token_and_no_loss(kind):
    decision = decide(kind, nonpadding_GS=np.zeros((1, 4), np.float32))
    assert not decision.kept_GKS.numpy().any()
    assert np.isfinite(decision.gate_GKS.numpy()).all()
    np.testing.assert_array_equal(decision.load_balancing_loss_G, [0.0])


def test_places_are_without_gaps():
    generator = np.random.default_rng(0)
    logits_GSE = generator.normal(size=(3, 16, 4)).astype(np.float32)
    for kind in KINDS:
        decision = router_of_logits(4, kind)(logits_GSE)
        kept_GKS, expert_GKS = decision.kept_GKS.numpy(), decision.expert_index_GKS.numpy()
        for g in range(3):
            for e in range(4):
                here = kept_GKS[g] & (expert_GKS[g] == e)
                taken = sorted(decision.position_GKS.numpy()[g][here])
                assert taken == list(range(len(taken))) and len(taken) <= decision.capacity


def test_every_expert_of_expert_choice_is_full_even_where_no_token_is_to_be_dropped():
    router = router_of_logits(2, ExpertChoiceRouter, eval_capacity_factor=1.0, min_capacity=1)
    with dropless():
        decision = router(LOGITS)
    assert decision.kept_GKS.numpy().sum(axis=2).tolist() == [[2, 2]]


def test_load_and_entropy_are_in_the_report():
    decision = decide(ExpertSelectionRouter, absolute_capacity=2)
    figures = figures_of(Report("layer", decision, 0.01, 0.0))
    np.testing.assert_allclose(figures["load_E"], [0.5, 0.5], rtol=1e-6)
    p = np.float64([[6, 4], [9, 1], [2, 8], [1, 9]]) / 10
    np.testing.assert_allclose(figures["entropy"], -(p * np.log(p)).sum() / 4, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_decoder_refuses_what_looks_ahead(kind):
    message = f"{kind.__name__} looks at future tokens, but the decoder has it in layer_1"
    with pytest.raises(UserError, match=message):
        tiny_model(router=kind, built=False)
    assert tiny_model(router=kind, built=False, decoder_sparse_layers=()) is not None


def prefix_logits(model, features, kept):
    @compiled
    def run(features):
        return model(features)

    return to_numpy(run(place_features(features)))[:, :kept]


def test_a_decoder_sees_the_tokens_to_come_through_expert_choice_and_through_no_other_router():
    features, kept = random_features(), 4
    changed = {name: array.copy() for name, array in features.items()}
    tokens = changed["decoder_input_tokens"][:, kept:]
    changed["decoder_input_tokens"][:, kept:] = np.where(tokens > 0, tokens[::-1] % 7 + 2, 0)

    def look_ahead(**kwargs):
        # One sequence a group: a suffix may take the places of the sequences behind it.
        model = tiny_model(group_size=8, **kwargs)
        return prefix_logits(model, features, kept) - prefix_logits(model, changed, kept)

    assert not look_ahead().any()
    assert look_ahead(router=lambda **kw: ExpertChoiceRouter(in_decoder=True, **kw)).any()


def test_experts_that_pick_cannot_take_all():
    with pytest.raises(UserError, match="ExpertChoiceRouter cannot be dropless.*raise capacity"):
        ExpertChoiceRouter(4, dropless=True)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_router_of_a_config_is_the_same_again(kind):
    config = kind(4, in_decoder=True, capacity_factor=3.0).get_config()
    assert kind.from_config(config).get_config() == config
