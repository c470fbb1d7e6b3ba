import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from switch_tf.layers.dispatch import EinsumDispatcher, GatherDispatcher
from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, Top2Router, TopKRouter
from switch_tf.layers.router import SwitchRouter
from tests.layers.test_router import router_of_logits

DISPATCHERS = {"gather": GatherDispatcher, "einsum": EinsumDispatcher}
ROUTERS = {
    "switch": (SwitchRouter, 1, {"jitter": 0.0}),
    "top-2": (Top2Router, 2, {"second_policy": "all"}),
    "top-3": (TopKRouter, 3, {"k": 3, "normalize_gates": False}),
    "no token left behind": (NoTokenLeftBehindRouter, 3, {"k": 3}),
}


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


def reference_slots(name, logits_GSE, nonpadding_GS, capacity):
    """[G, S, E, C]: the gate of each kept choice at its slot, given choice by choice."""
    gates_GSEC = np.zeros([*logits_GSE.shape, capacity], np.float32)
    choices = {"switch": 1, "top-2": 2}.get(name, 3)
    probabilities_GSE = np.exp(logits_GSE) / np.exp(logits_GSE).sum(-1, keepdims=True)
    for group, logits_SE in enumerate(logits_GSE):
        filled, taken = [0] * logits_SE.shape[1], set()
        for k in range(choices):
            for token, logits_E in enumerate(logits_SE):
                best = np.argsort(-logits_E, kind="stable")[:choices]
                if not nonpadding_GS[group, token] or token in taken:
                    continue
                expert = best[k]
                if filled[expert] < capacity:
                    gate = probabilities_GSE[group, token, expert]
                    if name == "top-2":
                        gate /= probabilities_GSE[group, token, best].sum()
                    gates_GSEC[group, token, expert, filled[expert]] = gate
                    filled[expert] += 1
                    if name == "no token left behind":
                        taken.add(token)
    return gates_GSEC


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(groups_of_tokens())
def test_dispatch_and_combine_equal_a_plain_reference_forward_and_backward(dispatcher, case):
    name, logits_GSE, nonpadding_GS, capacity = case
    kind, _, options = ROUTERS[name]
    router = router_of_logits(logits_GSE.shape[-1], kind, absolute_capacity=capacity, **options)
    decision = router(logits_GSE, nonpadding_GS)
    gates_GSEC = reference_slots(name, logits_GSE, nonpadding_GS, capacity)
    mask_GSEC = (gates_GSEC > 0).astype(np.float32)
    assert (decision.kept_GS.numpy() == (mask_GSEC.sum((2, 3)) > 0)).all()

    generator = np.random.default_rng(0)
    x_GSM = tf.constant(generator.normal(size=(*nonpadding_GS.shape, 3)).astype(np.float32))
    cotangent_GSM = generator.normal(size=x_GSM.shape).astype(np.float32)
    weight_ECM = generator.normal(size=(*mask_GSEC.shape[2:], 3)).astype(np.float32)
    moves = DISPATCHERS[dispatcher]()
    with tf.GradientTape() as tape:
        tape.watch(x_GSM)
        dispatched = moves.dispatch(x_GSM, decision)
        combined = moves.combine(dispatched * weight_ECM, decision)
        total = tf.reduce_sum(combined * cotangent_GSM)

    expected_GECM = np.einsum("GSEC,GSM->GECM", mask_GSEC, x_GSM)
    np.testing.assert_allclose(dispatched, expected_GECM, rtol=1e-6)
    expected_GSM = np.einsum("GSEC,GECM->GSM", gates_GSEC, expected_GECM * weight_ECM)
    np.testing.assert_allclose(combined, expected_GSM, rtol=1e-5, atol=1e-6)
    back_GECM = np.einsum("GSEC,GSM->GECM", gates_GSEC, cotangent_GSM) * weight_ECM
    expected_gradient = np.einsum("GSEC,GECM->GSM", mask_GSEC, back_GECM)
    gradient = tape.gradient(total, x_GSM)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def ops_of(dispatcher):
    """Shapes of all values of a compiled dispatch and combine of 64 tokens, 4 experts, 16 slots."""
    router = router_of_logits(4, absolute_capacity=16)

    @tf.function(autograph=False)
    def run(logits_GSE, x_GSM):
        decision = router(logits_GSE)
        moves = DISPATCHERS[dispatcher]()
        return moves.combine(moves.dispatch(x_GSM, decision), decision)

    graph = run.get_concrete_function(tf.TensorSpec([2, 64, 4]), tf.TensorSpec([2, 64, 3])).graph
    return [out.shape.as_list() for op in graph.get_operations() for out in op.outputs]


def test_only_the_einsum_makes_a_tensor_of_tokens_by_slots():
    whole = 2 * 64 * 4 * 16
    sizes = {d: max(int(np.prod(s)) for s in ops_of(d)) for d in DISPATCHERS}
    assert sizes["einsum"] == whole and sizes["gather"] < whole / 4
