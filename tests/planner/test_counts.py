"""Parameters and FLOPs of the paper's models (Table 9, Table 1, and sizes in the text)."""

import functools
import math

import gin
import pytest

from switch_tf import config
from switch_tf.layers.base import declare_only
from switch_tf.mesh import Mesh
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder, parameter_count
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant
from switch_tf.planner.counts import Counts
from tests.helpers import held_bytes, tiny_model, using

# Span corruption of 512 tokens: 15% in spans of 3.
LENGTHS = {"inputs": 512, "targets": 114}
# T5 1.0's feed-forward layer of the large size, with which the paper's figures of it agree.
RELU_LARGE = (
    "TransformerEncoderDecoder.activation='relu'",
    "TransformerEncoderDecoder.d_ff=4096",
)


@functools.cache
def counted(model, *bindings):
    try:
        config.load([f"models/{model}.gin"], bindings)
        return Counts.of(TransformerEncoderDecoder)
    finally:
        gin.clear_config()


def billions(count):
    return count / 1e9


@pytest.mark.parametrize(
    "model, bindings, expected",
    [
        ("t5_base", (), 0.223),
        ("t5_xxl", (), 11),
        ("switch_base", (), 7.4),
        ("switch_base", ("NUM_EXPERTS=16",), 1.1),
        ("switch_base", ("NUM_EXPERTS=32",), 2.0),
        ("switch_base", ("NUM_EXPERTS=64",), 3.8),
        ("switch_base", ("NUM_EXPERTS=256",), 14.7),
        ("moe_base", (), 7.4),
        ("switch_c", (), 1571),
        # The paper prints "0.7B", cut and not rounded: Table 9's shape gives 0.750.
        ("t5_large", (), 0.750),
        # Its 739M and 26B are those of T5 1.0's feed-forward layer.
        ("t5_large", RELU_LARGE, 0.738),
        ("switch_large", RELU_LARGE, 26),
        ("switch_large", (), 27),
        # Its 395B are those of 128 experts, Table 9's 64 give 201B.
        ("switch_xxl", ("NUM_EXPERTS=128",), 395),
        ("switch_xxl", (), 201),
    ],
)
def test_parameters_are_the_papers_to_its_digits(model, bindings, expected):
    digits = len(str(expected).replace("0.", "").replace(".", ""))
    assert float(f"{billions(counted(model, *bindings).parameters):.{digits}g}") == expected


@pytest.mark.parametrize(
    "model, bindings, expected",
    [
        ("t5_base", (), 124e9),
        ("switch_base", (), 124e9),
        ("t5_large", RELU_LARGE, 425e9),
        ("switch_large", RELU_LARGE, 425e9),
        ("t5_xxl", (), 6.3e12),
        ("switch_xxl", (), 6.3e12),
        ("switch_c", (), 890e9),
    ],
)
def test_flops_are_the_papers_where_it_counts_otherwise(model, bindings, expected):
    """Ours count all products. The paper's figures follow, within a percent, from leaving out
    the routers, one of attention's two products with the logits' shape, and the keys and values of
    the encoder's positions beyond the decoder's length.
    """
    counts = counted(model, *bindings)
    m, inputs, targets = counts.model, LENGTHS["inputs"], LENGTHS["targets"]
    width, layers = m.num_heads * m.d_kv, m.num_layers
    logits = 2 * width * layers * (inputs**2 + targets**2 + inputs * targets)
    keys_values = 2 * 2 * m.d_model * width * layers * (inputs - targets)
    routers = 0
    for weight in counts.weights:
        if "/router/" in weight.path:
            length = inputs if "/encoder/" in weight.path else targets
            routers += 2 * math.prod(weight.shape) * length
    assert counts.flops(LENGTHS) - logits - keys_values - routers == pytest.approx(
        expected, rel=0.01
    )


def test_switch_base_has_the_flops_of_t5_base_but_for_its_routers():
    dense, sparse = counted("t5_base"), counted("switch_base")
    routers = 2 * 768 * 128 * (6 * 512 + 6 * 114)
    assert sparse.flops(LENGTHS) - dense.flops(LENGTHS) == routers


def test_moe_base_has_the_work_of_a_second_expert_a_token():
    switch, moe = counted("switch_base"), counted("moe_base")
    # Geglu or relu, by the number of input kernels of an expert.
    (kernels,) = {
        len(block.feed_forward.layer.experts.wi)
        for block in switch.model.encoder.blocks
        if block.switch_layers
    }
    expert = 2 * switch.model.d_model * switch.model.d_ff * (kernels + 1)
    tokens = 6 * (LENGTHS["inputs"] + LENGTHS["targets"])
    assert moe.flops(LENGTHS) - switch.flops(LENGTHS) == expert * tokens


def test_flops_do_not_grow_with_the_experts_but_for_the_router():
    few, many = counted("switch_base", "NUM_EXPERTS=2"), counted("switch_base", "NUM_EXPERTS=256")
    assert many.flops(LENGTHS) / few.flops(LENGTHS) < 1.02
    assert many.parameters / few.parameters > 50


def test_the_multilingual_models_differ_in_the_vocabulary():
    base, multilingual = counted("t5_base"), counted("mt5_base")
    assert multilingual.parameters - base.parameters == 768 * (2 * 250112 - 32128)
    assert counted("mswitch_base").expert_parameters == counted("switch_base").expert_parameters


def test_switch_base_plus_is_wider():
    model = counted("switch_base_plus").model
    assert (model.d_model, model.num_heads) == (896, 16)


@pytest.mark.parametrize(
    "layout",
    [
        ("batch:8", "batch:batch"),
        ("batch:8", "batch:batch,experts:batch"),
        ("batch:2,model:4", "batch:batch,experts:batch,heads:model,d_ff:model,vocab:model"),
    ],
)
def test_what_is_counted_is_what_a_device_holds(layout):
    with using(layout) as mesh:
        model = tiny_model()
        optimizer = Adafactor(constant(0.1), min_dim_size_to_factor=16)
        optimizer.build(model.trainable_variables)
        paper = Mesh(mesh.shape, mesh.rules, None)
        counts = Counts.of(functools.partial(tiny_model, built=False))
        assert counts.parameters == parameter_count(model)
        assert counts.weight_bytes(paper) == sum(map(held_bytes, model.trainable_variables))
        assert counts.slot_bytes(paper, optimizer) == sum(map(held_bytes, optimizer.slots.values()))


def test_a_counted_model_has_no_weights():
    with declare_only() as declared:
        model = tiny_model()
    assert not model.trainable_variables
    assert len({weight.path for weight in declared}) == len(declared)
