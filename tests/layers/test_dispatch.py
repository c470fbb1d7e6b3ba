import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from switch_tf.layers.dispatch import EinsumDispatcher, GatherDispatcher, default_dispatcher
from switch_tf.layers.group_router import ExpertChoiceRouter, ExpertSelectionRouter, SwitchMaxRouter
from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, Top2Router, TopKRouter
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_ffn import SwitchFFN
from tests.layers.test_router import router_of_logits

DISPATCHERS = {"gather": GatherDispatcher, "einsum": EinsumDispatcher}
ROUTERS = {
    "switch": (SwitchRouter, 1, {"jitter": 0.0}),
    "top-2": (Top2Router, 2, {"second_policy": "all"}),
    "top-3": (TopKRouter, 3, {"k": 3, "normalize_gates": False}),
    "no token left behind": (NoTokenLeftBehindRouter, 3, {"k": 3}),
    "switch max": (SwitchMaxRouter, 1, {"jitter": 0.0}),
    "expert choice": (ExpertChoiceRouter, 1, {}),
    "expert selection": (ExpertSelectionRouter, 1, {}),
}
BY_EXPERTS = ("switch max", "expert choice", "expert selection")


@st.composite
def groups_of_tokens(draw):
    """Logits with ties, padding, capacity; all padding and capacity 1 among them."""
    name = draw(st.sampled_from(sorted(ROUTERS)))
    groups, size = (draw(st.integers(1, n)) for n in (3, 9))
    experts = draw(st.integers(ROUTERS[name][1], 5))
    levels = st.integers(-1, 1).map(float)
    logits = draw(arrays.arrays(np.float32, (groups, size, experts), elements=levels))
    padding = draw(st.one_of(st.just(0.0), st.just(1.0), st.none()))
    elements = st.sampled_from([0.0, 1.0]) if padding is None else st.just(padding)
    nonpadding = draw(arrays.arrays(np.float32, (groups, size), elements=elements))
    return name, logits, nonpadding, draw(st.integers(1, size))


def test_in_bfloat16_a_sum_of_choices_is_rounded_once():
    """As the product with one-hots that it stands for, in both directions."""
    generator = np.random.default_rng(0)
    logits_GSE = generator.normal(size=(2, 32, 4)).astype(np.float32)
    routing = router_of_logits(4, TopKRouter, k=4, absolute_capacity=32)(logits_GSE)
    dispatcher = GatherDispatcher()
    x_GSM = tf.cast(generator.normal(size=(2, 32, 16)), tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch(x_GSM)
        slots_GECM = dispatcher.dispatch(x_GSM, routing)
    y_GSM = dispatcher.combine(slots_GECM, routing)
    gradient_GSM = tape.gradient(slots_GECM, x_GSM, output_gradients=slots_GECM / 3)

    def once(weight_GS, value_GSM):
        value_GSM = tf.cast(value_GSM, tf.float64)
        return tf.cast(tf.cast(weight_GS, tf.float64)[..., None] * value_GSM, tf.bfloat16)

    gates_GKS = tf.cast(tf.cast(routing.gate_GKS, tf.bfloat16), tf.float64)
    np.testing.assert_array_equal(y_GSM, once(tf.reduce_sum(gates_GKS, axis=1), x_GSM))
    np.testing.assert_array_equal(gradient_GSM, once(4 * tf.ones([2, 32]), x_GSM / 3))


def softmax(logits_GSE, axis=-1, where=True):
    exp_GSE = np.exp(logits_GSE) * where
    return exp_GSE / np.maximum(exp_GSE.sum(axis, keepdims=True), 1e-9)


def reference_slots(name, probabilities_GSE, nonpadding_GS, capacity):
    """[G, S, E, C]: the gate of each kept choice at its slot."""
    gates_GSEC = np.zeros([*probabilities_GSE.shape, capacity], np.float32)
    kept = kept_by_experts if name in BY_EXPERTS else kept_by_tokens
    for group, probabilities_SE in enumerate(probabilities_GSE):
        filled = [0] * probabilities_SE.shape[1]
        tokens = np.flatnonzero(nonpadding_GS[group])
        for token, expert, gate in kept(name, probabilities_SE, tokens, capacity):
            gates_GSEC[group, token, expert, filled[expert]] = gate
            filled[expert] += 1
    return gates_GSEC


def kept_by_tokens(name, probabilities_SE, tokens, capacity):
    """Choice by choice, in token order, while there is room."""
    choices = {"switch": 1, "top-2": 2}.get(name, 3)
    filled, taken = [0] * probabilities_SE.shape[1], set()
    best_SE = np.argsort(-probabilities_SE, kind="stable", axis=1)
    for k in range(choices):
        for token in tokens:
            expert = best_SE[token, k]
            if filled[expert] == capacity or token in taken:
                continue
            gate = probabilities_SE[token, expert]
            if name == "top-2":
                gate /= probabilities_SE[token, best_SE[token, :2]].sum()
            filled[expert] += 1
            yield token, expert, gate
            if name == "no token left behind":
                taken.add(token)


def kept_by_experts(name, probabilities_SE, tokens, capacity):
    """Each expert's likeliest tokens, then in token order."""
    picked = {}
    for expert, p_S in enumerate(probabilities_SE.T):
        offered = [
            t for t in tokens if name != "switch max" or probabilities_SE[t].argmax() == expert
        ]
        picked[expert] = sorted(sorted(offered, key=lambda t: -p_S[t])[:capacity])
    for expert, best in picked.items():
        for token in best:
            times = sum(token in others for others in picked.values())
            gate = probabilities_SE[token, expert]
            yield token, expert, gate / times if name == "expert selection" else gate


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(groups_of_tokens())
def test_dispatch_and_combine_equal_a_plain_reference_forward_and_backward(dispatcher, case):
    name, logits_GSE, nonpadding_GS, capacity = case
    kind, _, options = ROUTERS[name]
    router = router_of_logits(logits_GSE.shape[-1], kind, absolute_capacity=capacity, **options)
    decision = router(logits_GSE, nonpadding_GS)
    # The router's own, or a tie would be one for one of the two only.
    probabilities_GSE = decision.probabilities_GSE.numpy()
    over = {"axis": 1, "where": nonpadding_GS[..., None] > 0} if name == "expert selection" else {}
    expected_GSE = softmax(logits_GSE, **over)
    np.testing.assert_allclose(probabilities_GSE, expected_GSE, rtol=1e-5)
    gates_GSEC = reference_slots(name, probabilities_GSE, nonpadding_GS, capacity)
    mask_GSEC = (gates_GSEC > 0).astype(np.float32)
    assert (decision.kept_GS.numpy() == (mask_GSEC.sum((2, 3)) > 0)).all()

    generator = np.random.default_rng(0)
    x_GSM = tf.constant(generator.normal(size=(*nonpadding_GS.shape, 3)).astype(np.float32))
    cotangent_GSM = generator.normal(size=x_GSM.shape).astype(np.float32)
    weight_ECM = generator.normal(size=(*mask_GSEC.shape[2:], 3)).astype(np.float32)
    moves = DISPATCHERS[dispatcher]()
    with tf.GradientTape() as tape:
        tape.watch([x_GSM, decision.gate_GKS])
        dispatched = moves.dispatch(x_GSM, decision)
        combined = moves.combine(dispatched * weight_ECM, decision)
        total = tf.reduce_sum(combined * cotangent_GSM)

    expected_GECM = np.einsum("GSEC,GSM->GECM", mask_GSEC, x_GSM)
    np.testing.assert_allclose(dispatched, expected_GECM, rtol=1e-6)
    expected_GSM = np.einsum("GSEC,GECM->GSM", gates_GSEC, expected_GECM * weight_ECM)
    np.testing.assert_allclose(combined, expected_GSM, rtol=1e-5, atol=1e-6)
    back_GECM = np.einsum("GSEC,GSM->GECM", gates_GSEC, cotangent_GSM) * weight_ECM
    expected_gradient = np.einsum("GSEC,GECM->GSM", mask_GSEC, back_GECM)
    gradient, of_gate_GKS = tape.gradient(total, [x_GSM, decision.gate_GKS])
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    # The router learns by it: of each kept choice, its expert's output along the cotangent.
    kept_GKS = decision.kept_GKS.numpy()
    y_GECM = expected_GECM * weight_ECM
    of_token_GS = np.einsum("GSEC,GECM,GSM->GS", mask_GSEC, y_GECM, cotangent_GSM)
    found_GS = (of_gate_GKS.numpy() * kept_GKS).sum(axis=1)
    np.testing.assert_allclose(found_GS, of_token_GS, rtol=1e-5, atol=1e-5)


def values_of(dispatcher, name):
    """Sizes of all values of a compiled dispatch and combine, forward and backward.

    Of two groups of 64 tokens, d_model 3, 4 experts of 16 slots.
    """
    kind, _, options = ROUTERS[name]
    router = router_of_logits(4, kind, absolute_capacity=16, **options)

    @tf.function(autograph=False)
    def run(logits_GSE, x_GSM):
        with tf.GradientTape() as tape:
            tape.watch([logits_GSE, x_GSM])
            decision = router(logits_GSE)
            moves = DISPATCHERS[dispatcher]()
            y_GSM = moves.combine(moves.dispatch(x_GSM, decision), decision)
        return tape.gradient(y_GSM, [logits_GSE, x_GSM])

    graph = run.get_concrete_function(tf.TensorSpec([2, 64, 4]), tf.TensorSpec([2, 64, 3])).graph
    return [math.prod(out.shape) for op in graph.get_operations() for out in op.outputs]


@pytest.mark.parametrize("name", ROUTERS)
def test_only_the_einsum_makes_a_tensor_of_tokens_by_slots(name):
    whole = 2 * 64 * 4 * 16
    assert max(values_of("einsum", name)) == whole
    assert max(values_of("gather", name)) < whole / 4


@pytest.mark.parametrize(
    "devices, kind", [([], GatherDispatcher), (["TPU:0"], EinsumDispatcher)], ids=["CPU", "TPU"]
)
def test_the_default_dispatcher_is_the_devices(devices, kind, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", {"TPU": devices}.get)
    assert isinstance(default_dispatcher(), kind)
    assert isinstance(SwitchFFN(4, 8).dispatcher, kind)
