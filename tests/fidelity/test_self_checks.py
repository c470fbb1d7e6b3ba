"""The reference by itself: what the papers say of simple cases."""

import dataclasses
import math

import numpy as np
import pytest

from tests.fidelity import batches, reference
from tests.fidelity.reference import Reference, Settings

VOCAB, D_MODEL, D_KV, HEADS, D_FF = 32, 16, 4, 2, 24
ALL = {"encoder_sparse": (0, 1), "decoder_sparse": (0, 1)}


def random_weights(settings, num_experts=4, seed=0):
    """Weights of a small model by path."""
    generator = np.random.default_rng(seed)
    shapes = {"embedding/table": (VOCAB, D_MODEL), "softmax/kernel": (D_MODEL, VOCAB)}
    for stack in ("encoder", "decoder"):
        shapes[f"{stack}/norm/scale"] = (D_MODEL,)
        shapes[f"{stack}/relative_position_bias/table"] = (32, HEADS)
        for layer in range(settings.num_layers):
            parts = ["self_attention", "feed_forward"]
            parts += ["cross_attention"] * (stack == "decoder")
            for part in parts:
                path = f"{stack}/layer_{layer}/{part}"
                shapes[f"{path}/norm/scale"] = (D_MODEL,)
                if part != "feed_forward":
                    for name in ("query", "key", "value"):
                        shapes[f"{path}/attention/{name}"] = (D_MODEL, HEADS, D_KV)
                    shapes[f"{path}/attention/output"] = (HEADS, D_KV, D_MODEL)
                    continue
                experts = ()
                if layer in getattr(settings, f"{stack}_sparse"):
                    shapes[f"{path}/switch_ffn/router/kernel"] = (D_MODEL, num_experts)
                    experts = (num_experts,)
                path += "/switch_ffn/experts" if experts else "/ffn"
                for name in ("wi_0", "wi_1") if settings.activation == "geglu" else ("wi",):
                    shapes[f"{path}/{name}"] = (*experts, D_MODEL, D_FF)
                shapes[f"{path}/wo"] = (*experts, D_FF, D_MODEL)
    return {path: generator.normal(size=shape) * 0.5 for path, shape in shapes.items()}


def at_targets(logits_BLV, features):
    return logits_BLV[features["decoder_target_tokens"] > 0]


@pytest.mark.parametrize("activation", ["relu", "geglu"])
def test_one_expert_is_the_dense_layer(activation):
    sparse = Settings(activation=activation, eval_capacity_factor=1.0, **ALL)
    weights = random_weights(sparse, num_experts=1)
    dense = {
        path.replace("switch_ffn/experts", "ffn"): w[0] if "/experts/" in path else w
        for path, w in weights.items()
    }
    features = batches.unpacked(VOCAB)
    logits, routed = Reference(sparse, weights)(features)
    expected, none = Reference(Settings(activation=activation), dense)(features)
    np.testing.assert_allclose(at_targets(logits, features), at_targets(expected, features))
    assert none == {} and [layer.balance for layer in routed.values()] == [1.0] * 4


@pytest.mark.parametrize("choices", [1, 2])
def test_packed_examples_are_as_apart_when_nothing_is_dropped(choices):
    settings = Settings(choices=choices, eval_capacity_factor=4.0, **ALL)
    model = Reference(settings, random_weights(settings))
    features = batches.packed(VOCAB)
    rows, places = batches.apart(features)
    logits, routed = model(features)
    expected, _ = model(rows)
    assert not any(layer.dropped_GS.any() for layer in routed.values())
    for example, (row, start) in enumerate(places):
        length = np.count_nonzero(rows["decoder_target_tokens"][example])
        actual = logits[row, start : start + length]
        np.testing.assert_allclose(actual, expected[example, :length], rtol=1e-9)


def test_padding_changes_nothing():
    settings = Settings(**ALL)
    model = Reference(settings, random_weights(settings))
    features = batches.unpacked(VOCAB)
    targets = features["decoder_target_tokens"]
    garbage = dict(features)
    # What the decoder reads where there is no target is padding, whatever it is.
    garbage["decoder_input_tokens"] = np.where(targets > 0, features["decoder_input_tokens"], 7)
    (first, routed), (second, other) = model(features), model(garbage)
    np.testing.assert_array_equal(at_targets(first, features), at_targets(second, features))
    assert model.loss(first, routed, targets) == model.loss(second, other, targets)


def test_the_first_tokens_find_room_and_second_choices_come_last():
    expert_SC = np.array([[0, 1], [0, 2], [-1, -1], [0, 1], [1, 0], [1, 0]])
    kept_SC = reference.place(expert_SC, num_experts=3, room=2)
    # Expert 0 has room for the first choices of tokens 0 and 1, expert 1 for those of 4 and 5.
    expected = [[1, 0], [1, 1], [0, 0], [0, 0], [1, 0], [1, 0]]
    np.testing.assert_array_equal(kept_SC, np.array(expected, bool))


def test_gates_are_probabilities_and_of_two_choices_sum_to_one():
    probability_SE = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    real_S = np.array([True, False])
    expert_SC, gate_SC = reference.choose(probability_SE, real_S, 1)
    np.testing.assert_array_equal(expert_SC, [[1], [-1]])
    assert gate_SC[0, 0] == 0.5
    expert_SC, gate_SC = reference.choose(probability_SE, real_S, 2)
    np.testing.assert_array_equal(expert_SC, [[1, 2], [-1, -1]])
    np.testing.assert_allclose(gate_SC[0], [0.625, 0.375])


@pytest.mark.parametrize(
    "tokens, num_experts, factor, least, expected",
    [(16, 4, 1.25, 4, 5), (16, 4, 9.0, 4, 16), (16, 4, 0.5, 4, 4), (3, 4, 1.0, 4, 3)],
)
def test_capacity(tokens, num_experts, factor, least, expected):
    assert reference.capacity(tokens, num_experts, factor, least) == expected


def test_groups_divide_the_tokens():
    assert reference.number_of_groups(96, 16, 1) == 6
    assert reference.number_of_groups(96, 20, 1) == 6
    assert reference.number_of_groups(96, 20, 4) == 8


def test_balance_is_one_when_even_and_more_when_not():
    even_SE = np.full((8, 4), 0.25)
    assert reference.balance(even_SE, np.arange(8) % 4) == 1.0
    sure_SE = np.tile([1.0, 0.0, 0.0, 0.0], (8, 1))
    assert reference.balance(sure_SE, np.zeros(8, int)) == 4.0
    # f = (1/2, 1/2), P = (0.6, 0.4) of the two tokens; the third is padding.
    pair_SE = np.array([[0.8, 0.2], [0.4, 0.6], [0.0, 1.0]])
    assert reference.balance(pair_SE, np.array([0, 1, -1])) == pytest.approx(1.0)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_those_of_t5s_logarithms(bidirectional):
    count = 16 if bidirectional else 32
    exact = count // 2
    for distance in range(400):
        expected = distance
        if distance >= exact:
            # Slightly more than the logarithm, whose floor at powers of two is the question.
            step = math.log(distance / exact) / math.log(128 / exact) * (count - exact) + 1e-9
            expected = min(exact + int(step), count - 1)
        assert reference.bucket(-distance, bidirectional) == expected
        ahead = (expected + 16) * (distance > 0) if bidirectional else 0
        assert reference.bucket(distance, bidirectional) == ahead


def test_relative_positions_alone_matter():
    settings = Settings()
    model = Reference(settings, random_weights(settings))
    features = batches.unpacked(VOCAB, filler=False)
    moved = {name: np.pad(tokens, ((0, 0), (5, 0))) for name, tokens in features.items()}
    logits, expected = model(moved)[0], model(features)[0]
    # The padding before them is nothing's key, as it is another example's.
    moved_logits, logits = at_targets(logits, moved), at_targets(expected, features)
    np.testing.assert_allclose(moved_logits, logits, rtol=1e-9)


def test_bfloat16_keeps_eight_bits_where_it_rounds():
    settings = Settings(bfloat16=True, **ALL)
    model = Reference(settings, random_weights(settings))
    assert model._round(np.array([1.0 + 2**-7, 1.0 + 2**-9])).tolist() == [1.0 + 2**-7, 1.0]
    exact = Reference(dataclasses.replace(settings, bfloat16=False), random_weights(settings))
    features = batches.unpacked(VOCAB)
    rounded, expected = (at_targets(m(features)[0], features) for m in (model, exact))
    assert 1e-4 < np.abs(rounded - expected).mean() / expected.std() < 0.2
