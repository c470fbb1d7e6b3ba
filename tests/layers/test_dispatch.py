import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from switch_tf.layers.dispatch import GatherDispatcher
from tests.layers.test_router import router_of_logits


@st.composite
def groups_of_tokens(draw):
    """Logits with ties, padding, capacity; all padding and capacity 1 among them."""
    groups, size, experts = (draw(st.integers(1, n)) for n in (3, 9, 5))
    levels = st.integers(-1, 1).map(float)
    logits = draw(arrays.arrays(np.float32, (groups, size, experts), elements=levels))
    padding = draw(st.one_of(st.just(0.0), st.just(1.0), st.none()))
    elements = st.sampled_from([0.0, 1.0]) if padding is None else st.just(padding)
    nonpadding = draw(arrays.arrays(np.float32, (groups, size), elements=elements))
    return logits, nonpadding, draw(st.integers(1, size))


def reference_mask(logits_GSE, nonpadding_GS, capacity):
    """One-hot [G, S, E, C] of each kept token's slot, token by token."""
    mask_GSEC = np.zeros([*logits_GSE.shape, capacity], np.float32)
    for group, logits_SE in enumerate(logits_GSE):
        filled = [0] * logits_SE.shape[1]
        for token, logits_E in enumerate(logits_SE):
            expert = int(np.argmax(logits_E))
            if nonpadding_GS[group, token] and filled[expert] < capacity:
                mask_GSEC[group, token, expert, filled[expert]] = 1.0
                filled[expert] += 1
    return mask_GSEC


@settings(max_examples=40, deadline=None, derandomize=True)
@given(groups_of_tokens())
def test_gathers_equal_one_hot_products_forward_and_backward(case):
    logits_GSE, nonpadding_GS, capacity = case
    router = router_of_logits(logits_GSE.shape[-1], absolute_capacity=capacity)
    decision = router(logits_GSE, nonpadding_GS)
    mask_GSEC = reference_mask(logits_GSE, nonpadding_GS, capacity)
    assert (decision.kept_GS.numpy() == (mask_GSEC.sum((2, 3)) > 0)).all()

    generator = np.random.default_rng(0)
    x_GSM = tf.constant(generator.normal(size=(*nonpadding_GS.shape, 3)).astype(np.float32))
    cotangent_GSM = generator.normal(size=x_GSM.shape).astype(np.float32)
    weight_ECM = generator.normal(size=(*mask_GSEC.shape[2:], 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(x_GSM)
        dispatched = GatherDispatcher().dispatch(x_GSM, decision)
        combined = GatherDispatcher().combine(dispatched * weight_ECM, decision)
        total = tf.reduce_sum(combined * cotangent_GSM)

    expected_GECM = np.einsum("GSEC,GSM->GECM", mask_GSEC, x_GSM)
    gate_GS = decision.probabilities_GSE.numpy().max(-1)
    combine_GSEC = mask_GSEC * gate_GS[:, :, None, None]
    np.testing.assert_array_equal(dispatched, expected_GECM)
    expected_GSM = np.einsum("GSEC,GECM->GSM", combine_GSEC, expected_GECM * weight_ECM)
    np.testing.assert_allclose(combined, expected_GSM, rtol=1e-5, atol=1e-6)
    back_GECM = np.einsum("GSEC,GSM->GECM", combine_GSEC, cotangent_GSM) * weight_ECM
    expected_gradient = np.einsum("GSEC,GECM->GSM", mask_GSEC, back_GECM)
    gradient = tape.gradient(total, x_GSM)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
