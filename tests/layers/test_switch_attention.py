import functools

import numpy as np
import pytest
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.layers.attention import Attention
from switch_tf.layers.context import collect, model_seed
from switch_tf.layers.group_router import ExpertChoiceRouter
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_attention import SwitchAttention, SwitchProjection
from switch_tf.mesh import to_numpy
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from tests.helpers import (
    compiled,
    error,
    place,
    place_features,
    put,
    random_features,
    tiny_model,
    using,
)

D_MODEL, HEADS, D_KV = 8, 2, 4
LAYOUTS = {
    "plain": None,
    "experts with data": ("batch:4", "batch:batch,experts:batch"),
    "experts and heads": ("batch:2,model:2", "batch:batch,experts:batch,heads:model"),
}


def attention_of(num_experts, **kwargs):
    router = functools.partial(SwitchRouter, jitter=0.0, **kwargs)
    projection = functools.partial(SwitchProjection, num_experts, router=router, groups_multiple=4)
    layer = SwitchAttention(HEADS, D_KV, init_scale=1.0, projection=projection, name="attention")
    layer.build((None, None, D_MODEL))
    return layer


def inputs(batch=4, length=8):
    generator = np.random.default_rng(0)
    return generator.normal(size=(batch, length, D_MODEL)).astype(np.float32)


def test_one_expert_that_drops_nothing_is_dense_attention_times_the_gate():
    layer, dense = attention_of(1, dropless=True), Attention(HEADS, D_KV)
    dense.build((None, None, D_MODEL))
    for name in ("query", "key", "value"):
        experts = layer.query_layer if name == "query" else layer.key_value_layer
        index = experts.kernel_names.index(name)
        put(getattr(dense, name), experts.experts.kernels[index].numpy()[0])
    put(dense.output_kernel, layer.output_kernel.numpy())
    # The only expert has a gate of 1.
    assert error(layer(inputs()), dense(inputs())) < 1e-6


def test_a_token_is_projected_by_the_expert_that_its_router_chose():
    layer = attention_of(4, dropless=True).query_layer
    x_BLM = inputs()
    (query_BLHK,) = layer(x_BLM)
    logits_BLE = x_BLM @ layer.router.kernel.numpy()
    p_BLE = np.exp(logits_BLE) / np.exp(logits_BLE).sum(axis=-1, keepdims=True)
    expert_BL = logits_BLE.argmax(axis=-1)
    kernels_EMHK = layer.experts.kernels[0].numpy()
    expected = np.einsum("BLM,BLMHK->BLHK", x_BLM, kernels_EMHK[expert_BL])
    expected *= p_BLE.max(axis=-1)[..., None, None]
    assert error(query_BLHK, expected) < 1e-5


def test_dropped_tokens_and_padding_have_zeros():
    layer = attention_of(4, absolute_capacity=1).key_value_layer
    nonpadding_BL = np.ones((4, 8), np.float32)
    nonpadding_BL[:, 6:] = 0
    with collect() as reports:
        key_BTHK, value_BTHK = layer(inputs(), nonpadding_BL)
    kept_BT = reports[0].routing.kept_GS.numpy().reshape(4, 8)
    assert 0 < kept_BT.sum() < 24 and not kept_BT[:, 6:].any()
    for found_BTHK in (key_BTHK, value_BTHK):
        np.testing.assert_array_equal(np.abs(found_BTHK).sum(axis=(2, 3)) > 0, kept_BT)


def outputs_and_gradients(layout):
    with using(LAYOUTS[layout]), model_seed(0):
        layer = attention_of(4)
        variables = [variable.value for variable in layer.trainable_variables]

        @compiled
        def run(x_BLM):
            with tf.GradientTape() as tape, collect() as reports:
                y_BLM = layer(x_BLM, training=True)
                loss = tf.reduce_sum(y_BLM**2) + sum(report.loss() for report in reports)
            return [y_BLM, loss, *tape.gradient(loss, variables)]

        found = run(place(inputs(), ("batch",)))
        return [to_numpy(value) for value in found]


@pytest.fixture(scope="module")
def single():
    return outputs_and_gradients("plain")


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "plain"])
def test_output_and_gradients_are_those_of_a_single_device(single, layout):
    for one, other in zip(single, outputs_and_gradients(layout), strict=True):
        assert error(other, one) < 1e-5


def switch_attention_model(**kwargs):
    projection = functools.partial(SwitchProjection, 4, groups_multiple=8)
    attention = functools.partial(SwitchAttention, projection=projection)
    return tiny_model(num_experts=4, switch_attention=attention, **kwargs)


def test_a_sparse_layer_may_have_both_or_either():
    both, features = switch_attention_model(), place_features(random_features())
    with collect() as reports:
        both(features)
    place_of = "model/encoder/layer_1/"
    assert [r.name for r in reports if r.name.startswith("model/encoder")] == [
        f"{place_of}self_attention/attention/query",
        f"{place_of}self_attention/attention/key_value",
        f"{place_of}feed_forward/switch_ffn",
    ]
    either = switch_attention_model(switch_ffn=None)
    assert [len(block.switch_layers) for block in either.encoder.blocks] == [0, 2]
    assert len(both.encoder.blocks[1].switch_layers) == 3


def test_it_has_the_flops_of_dense_attention_and_its_routers():
    dense, sparse = Attention(HEADS, D_KV), attention_of(4)
    routers = 2 * 2 * D_MODEL * 4 * 16
    assert sparse.flops(D_MODEL, 16, 16) == dense.flops(D_MODEL, 16, 16) + routers


def test_a_model_of_a_config_is_the_same_again():
    model = switch_attention_model(built=False)
    again = TransformerEncoderDecoder.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    again.build()
    model.build()
    features = place_features(random_features())
    np.testing.assert_array_equal(again(features), model(features))


def test_what_looks_ahead_is_refused_in_a_decoders_attention_too():
    projection = functools.partial(SwitchProjection, 4, router=ExpertChoiceRouter)
    attention = functools.partial(SwitchAttention, projection=projection)
    with pytest.raises(UserError, match="ExpertChoiceRouter looks at future tokens"):
        tiny_model(switch_attention=attention, built=False)
