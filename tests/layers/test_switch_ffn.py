import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.layers.context import collect, dropless
from switch_tf.layers.dispatch import EinsumDispatcher, GatherDispatcher
from switch_tf.layers.feed_forward import FeedForward
from switch_tf.layers.group_router import ExpertSelectionRouter, SwitchMaxRouter
from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, Top2Router
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.mesh import to_numpy
from tests.helpers import GOLDEN, compiled, error, place, put, using

TOLERANCE = 1e-5
# Golden run of Mesh-TensorFlow -> capacity factor, and what differs from the others.
GOLDEN_RUNS = {
    "switch_argmax_cf0.5": (0.5, {}),
    "switch_argmax_cf1.0": (1.0, {}),
    "switch_argmax_cf1.25": (1.25, {}),
    "switch_argmax_cf2.0": (2.0, {}),
    "switch_argmax_pad": (1.0, {}),
    "switch_argmax_pad_train": (1.0, {"training": True}),
    "switch_geglu": (1.25, {"activation": "geglu"}),
    "switch_group16": (1.0, {"group_size": 16}),
    "switch_group64": (1.0, {"group_size": 64}),
    "switch_zloss_train": (1.25, {"training": True, "z_loss_coef": 1e-5}),
    "switch_jitter_eval": (1.0, {"min_capacity": 4}),
    "top_2_all": (2.0, {"kind": Top2Router, "second_policy": "all"}),
    "top_2_all_cf1": (1.0, {"kind": Top2Router, "second_policy": "all"}),
    "top_2_all_pad_train": (
        1.25,
        {"kind": Top2Router, "second_policy": "all", "training": True},
    ),
    "top_2_none": (2.0, {"kind": Top2Router, "second_policy": "none"}),
    "top_2_threshold": (2.0, {"kind": Top2Router, "second_policy": "threshold"}),
    "ntlb_cf1": (1.0, {"kind": NoTokenLeftBehindRouter}),
    "ntlb_cf0.5_pad": (0.5, {"kind": NoTokenLeftBehindRouter}),
    "switch_max": (1.0, {"kind": SwitchMaxRouter}),
    "expert_selection": (1.0, {"kind": ExpertSelectionRouter}),
}
# Name of Mesh-TensorFlow's gating, in the names of its weights.
GATINGS = {
    SwitchRouter: "switch",
    Top2Router: "top_2",
    NoTokenLeftBehindRouter: "ntlb",
    SwitchMaxRouter: "switch_max",
    ExpertSelectionRouter: "expert_selection",
}
LAYOUTS = {
    "plain": None,
    "experts with data": ("batch:4", "batch:batch,experts:batch"),
    "mixed": ("batch:2,model:2", "batch:batch,experts:batch,d_ff:model"),
    "experts beside data": ("batch:2,model:4", "batch:batch,experts:model"),
}
ON_MESHES = (
    "switch_argmax_cf1.0",
    "switch_argmax_pad_train",
    "switch_geglu",
    "top_2_all_pad_train",
    "switch_max",
    "expert_selection",
)
PARITY = [(name, "plain") for name in GOLDEN_RUNS]
PARITY += [(name, layout) for name in ON_MESHES for layout in LAYOUTS if layout != "plain"]


def run_golden(
    name,
    training=False,
    activation="relu",
    group_size=32,
    kind=SwitchRouter,
    dispatcher=GatherDispatcher,
    **router_options,
):
    """(array of Mesh-TensorFlow, ours) by name."""
    with np.load(GOLDEN / f"mesh_tf/{name}.npz") as arrays:
        golden = dict(arrays)
    factor = GOLDEN_RUNS[name][0]
    # The golden runs' settings; Mesh-TensorFlow's loss counts padding.
    settings = {"policy": "argmax", "min_capacity": 1, "load_balancing_over": "positions"}
    settings |= {"capacity_factor": factor, "eval_capacity_factor": factor}
    router = functools.partial(kind, **(settings | router_options))
    options = {"group_size": group_size, "router": router, "dispatcher": dispatcher}
    layer = SwitchFFN(8, 24, activation, **options)
    layer.build(golden["inputs"].shape)
    kernels = {f"{GATINGS[kind]}_gating": layer.router.kernel, "wo": layer.experts.wo}
    kernels |= {variable.name: variable for variable in layer.experts.wi}
    for key, variable in kernels.items():
        put(variable, golden[f"var/{key}/kernel"])

    @compiled
    def run(x_BLM, nonpadding_BL, cotangent_BLM):
        with tf.GradientTape() as tape:
            tape.watch(x_BLM)
            with collect() as reports:
                y_BLM = layer(x_BLM, nonpadding_BL, training=training)
            loss = reports[0].loss()
            total = tf.reduce_sum(y_BLM * cotangent_BLM) + 10.0 * loss
        return y_BLM, loss, tape.gradient(total, [x_BLM, *(v.value for v in kernels.values())])

    inputs = [place(golden[key], ["batch"]) for key in ("inputs", "nonpadding", "cotangent")]
    output, loss, gradients = run(*inputs)
    names = ["grad_inputs", *(f"grad/{key}/kernel" for key in kernels)]
    found = dict(zip(names, gradients, strict=True)) | {"output": output, "loss_times_coef": loss}
    return {key: (value, golden[key]) for key, value in found.items()}


@pytest.mark.parametrize("name, layout", PARITY)
def test_outputs_losses_and_gradients_are_mesh_tensorflows(name, layout):
    with using(LAYOUTS[layout]):
        pairs = run_golden(name, **GOLDEN_RUNS[name][1])
        errors = {key: error(ours, theirs) for key, (ours, theirs) in pairs.items()}
    assert {key: value for key, value in errors.items() if value > TOLERANCE} == {}


@pytest.mark.parametrize("name", ["switch_argmax_pad", "top_2_all", "expert_selection"])
def test_one_hot_products_give_them_too(name):
    pairs = run_golden(name, **GOLDEN_RUNS[name][1], dispatcher=EinsumDispatcher)
    errors = {key: error(ours, theirs) for key, (ours, theirs) in pairs.items()}
    assert {key: value for key, value in errors.items() if value > TOLERANCE} == {}


def switch_layer(experts_of_tokens, capacity_factor, **kwargs):
    """A layer over 4 experts, and inputs [batch, length, 4] that it routes as told."""
    options = {"capacity_factor": capacity_factor, "eval_capacity_factor": capacity_factor}
    router = functools.partial(SwitchRouter, jitter=0.0, min_capacity=1, **options)
    layer = SwitchFFN(4, 16, router=router, **kwargs)
    x_BLM = 0.1 + np.eye(4, dtype=np.float32)[np.asarray(experts_of_tokens)]
    layer.build(x_BLM.shape)
    put(layer.router.kernel, 8.0 * np.eye(4, dtype=np.float32))
    return layer, x_BLM


def zero_rows(y_BLM):
    """(sequence, position) of the outputs that are exactly zero."""
    whole = to_numpy(tf.cast(y_BLM, tf.float32))
    return [tuple(map(int, place)) for place in np.argwhere((whole == 0.0).all(axis=-1))]


DTYPES = ("float32", "mixed_bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [None, ("batch:2", "batch:batch,experts:batch")])
def test_tokens_beyond_the_capacity_leave_as_zero(dtype, layout):
    chosen = [[0, 0, 0, 1, 0, 2, 1, 1], [3, 2, 1, 0, 3, 3, 3, 2]]
    with using(layout):
        layer, x_BLM = switch_layer(chosen, 1.0, dtype=dtype)
        y_BLM = compiled(layer)(place(x_BLM, ["batch"]))
        # Room for two tokens an expert, given by order in the sequence.
        assert zero_rows(y_BLM) == [(0, 2), (0, 4), (0, 7), (1, 5), (1, 6)]
        assert y_BLM.dtype == layer.compute_dtype


@pytest.mark.parametrize("factor, kept", [(0.5, 1), (1.0, 2), (1.5, 3), (4.0, 8), (9.0, 8)])
def test_when_all_tokens_choose_one_expert_the_first_stay(factor, kept):
    layer, x_BLM = switch_layer([[0] * 8], factor)
    assert zero_rows(compiled(layer)(x_BLM)) == [(0, i) for i in range(kept, 8)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_takes_no_slot_and_leaves_as_zero(dtype):
    layer, x_BLM = switch_layer([[0] * 8], 1.0, dtype=dtype)
    nonpadding_BL = np.array([[0, 1, 0, 1, 1, 1, 1, 1]], np.float32)
    assert zero_rows(compiled(layer)(x_BLM, nonpadding_BL)) == [(0, i) for i in (0, 2, 4, 5, 6, 7)]


def test_padding_is_routed_like_any_token_where_masking_is_off():
    layer, x_BLM = switch_layer([[0] * 8], 1.0, mask_padding=False)
    nonpadding_BL = np.array([[0, 1, 0, 1, 1, 1, 1, 1]], np.float32)
    assert zero_rows(compiled(layer)(x_BLM, nonpadding_BL)) == [(0, i) for i in range(2, 8)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [None, ("batch:4", "batch:batch,experts:batch")])
def test_permuting_the_batch_permutes_the_output_where_nothing_is_dropped(dtype, layout):
    generator = np.random.default_rng(0)
    x_BLM = generator.normal(size=(8, 4, 16)).astype(np.float32)
    order = generator.permutation(8)
    with using(layout):
        router = functools.partial(SwitchRouter, dropless=True)
        layer = SwitchFFN(4, 16, group_size=8, router=router, dtype=dtype, name="switch_ffn")
        layer.build(x_BLM.shape)
        run = compiled(lambda x_BLM: tf.cast(layer(x_BLM), tf.float32))
        straight, permuted = (to_numpy(run(place(x, ["batch"]))) for x in (x_BLM, x_BLM[order]))
    assert np.abs(straight).max(axis=-1).min() > 0
    np.testing.assert_allclose(permuted, straight[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_the_products_and_probabilities_their_softmax(dtype):
    layer, _ = switch_layer([[0] * 8], 1.0, dtype=dtype)
    x_BLM = np.random.default_rng(0).normal(size=(1, 8, 4)).astype(np.float32)
    x_BLM = tf.cast(tf.cast(x_BLM, layer.compute_dtype), tf.float32).numpy()

    @compiled
    def run(x_BLM):
        with collect() as reports:
            layer(x_BLM)
        decision = reports[0].routing
        return decision.logits_GSE, decision.probabilities_GSE, decision.gate_GKS

    logits_GSE, probabilities_GSE, gate_GKS = (value.numpy() for value in run(x_BLM))
    np.testing.assert_allclose(logits_GSE, 8.0 * x_BLM, rtol=1e-6)
    exp_GSE = np.exp(logits_GSE)
    np.testing.assert_allclose(probabilities_GSE, exp_GSE / exp_GSE.sum(-1, keepdims=True), 1e-5)
    kept = gate_GKS[0, 0] > 0
    np.testing.assert_array_equal(gate_GKS[0, 0][kept], probabilities_GSE[0].max(-1)[kept])


def test_a_dropless_context_drops_nothing():
    layer, x_BLM = switch_layer([[0] * 8], 0.5)

    @compiled
    def run(x_BLM):
        with dropless():
            return layer(x_BLM)

    assert zero_rows(run(x_BLM)) == []
    assert zero_rows(compiled(layer)(x_BLM)) != []


def test_a_token_meets_its_expert_alone():
    layer, x_BLM = switch_layer([[0, 3, 1, 1]], 4.0)
    (wi_EMF,), wo_EFM = layer.experts.wi, layer.experts.wo
    y_BLM = compiled(layer)(x_BLM).numpy()
    for token, expert in enumerate([0, 3, 1, 1]):
        x_M = x_BLM[0, token]
        exponents_E = np.exp(8.0 * x_M)
        gate = exponents_E[expert] / exponents_E.sum()
        hidden_F = np.maximum(x_M @ wi_EMF.numpy()[expert], 0.0)
        np.testing.assert_allclose(y_BLM[0, token], gate * hidden_F @ wo_EFM.numpy()[expert], 1e-5)


def test_routing_is_float32_inside_a_bfloat16_layer():
    layer, x_BLM = switch_layer([[0, 1, 2, 3]], 1.0, dtype="mixed_bfloat16")
    seen = {}

    @compiled
    def run(x_BLM):
        with collect() as reports:
            y_BLM = layer(x_BLM)
        decision = reports[0].routing
        fields = ("logits_GSE", "probabilities_GSE", "gate_GKS", "load_balancing_loss_G")
        seen.update(
            {name: getattr(decision, name).dtype for name in fields}, loss=reports[0].loss()
        )
        return y_BLM

    assert run(x_BLM).dtype == tf.bfloat16
    assert seen.pop("loss").dtype == tf.float32
    assert set(seen.values()) == {tf.float32}
    kernels = [layer.router.kernel, *layer.experts.wi, layer.experts.wo]
    assert {v.value.dtype for v in kernels} == {tf.float32}


@pytest.mark.parametrize(
    "group_size, multiple, expected",
    [
        (None, 1, (4, 12)),
        (16, 1, (3, 16)),
        (13, 1, (4, 12)),
        (1000, 1, (1, 48)),
        (7, 1, (8, 6)),
        (16, 4, (4, 12)),
        (1000, 8, (8, 6)),
    ],
)
def test_the_largest_group_that_divides_the_tokens_is_taken(group_size, multiple, expected):
    layer = SwitchFFN(2, 4, group_size=group_size, groups_multiple=multiple)
    assert layer.groups(batch=4, length=12) == expected


def test_groups_that_do_not_divide_over_the_devices_are_refused():
    with using(("batch:4", "batch:batch")), pytest.raises(UserError) as caught:
        SwitchFFN(2, 4, group_size=16).groups(batch=4, length=12)
    assert str(caught.value) == (
        "GROUP_SIZE=16 and GROUPS_MULTIPLE=1 split a batch of 4 x 12 tokens into 3 groups, not "
        "divisible by 4 devices: set GROUPS_MULTIPLE=4"
    )


def test_the_loss_goes_to_keras_where_nothing_collects_it():
    layer, x_BLM = switch_layer([[0] * 8], 1.0)
    layer(x_BLM)
    (loss,) = layer.losses
    probability = keras.ops.softmax(8.0 * x_BLM[0, 0])[0]
    np.testing.assert_allclose(loss, 0.01 * 4 * probability, rtol=1e-5)


def test_flops_count_the_router_and_one_expert_a_token():
    few, many = (SwitchFFN(n, 32).flops(d_model=16, length=8) for n in (2, 64))
    assert few == 2 * 8 * (16 * 2 + 16 * 32 + 32 * 16)
    assert many - few == 2 * 8 * 16 * (64 - 2)


def product_flops(layer, x_BLM):
    """FLOPs of all products in the layer's graph."""

    @compiled
    def run(x_BLM):
        return layer(x_BLM, training=True)

    total = 0
    for op in run.get_concrete_function(x_BLM).graph.get_operations():
        assert op.type not in ("MatMul", "BatchMatMulV2")
        if op.type == "Einsum":
            letters = op.get_attr("equation").decode().split("->")[0].split(",")
            sizes = {}
            for names, tensor in zip(letters, op.inputs, strict=True):
                sizes |= dict(zip(names, tensor.shape.as_list(), strict=True))
            total += 2 * math.prod(sizes.values())
    return total


def test_the_compiled_layer_does_the_work_of_its_slots_however_many_experts():
    """Two products a slot, and the router's; capacity x experts is the tokens times the factor."""
    x_BLM = np.zeros([2, 64, 16], np.float32)
    for experts in (2, 8, 32):
        router = functools.partial(SwitchRouter, capacity_factor=1.0, min_capacity=1)
        layer = SwitchFFN(experts, 32, router=router)
        assert product_flops(layer, x_BLM) == 2 * 2 * 64 * (16 * experts + 16 * 32 + 32 * 16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_expert_dropout_is_on_the_hidden_layer_of_the_experts_in_training_alone(dtype):
    """With one hidden unit, a token's output is all there, twice over, or not at all."""
    router = functools.partial(SwitchRouter, jitter=0.0, dropless=True)
    layers = [
        SwitchFFN(4, 1, router=router, expert_dropout_rate=rate, dtype=dtype, seed=0)
        for rate in (0.0, 0.5)
    ]
    x_BLM = np.random.default_rng(0).normal(size=(8, 16, 8)).astype(np.float32)
    plain_BLM, dropped_BLM = (compiled(layer)(x_BLM, training=True).numpy() for layer in layers)
    np.testing.assert_array_equal(layers[1](x_BLM), layers[0](x_BLM))
    here_BL = (plain_BLM != 0).any(axis=-1)
    kept_BL = (dropped_BLM != 0).any(axis=-1)
    assert 0.3 < kept_BL[here_BL].mean() < 0.7
    twice_BLM = np.float32(2.0) * plain_BLM * kept_BL[..., None]
    np.testing.assert_allclose(dropped_BLM.astype(np.float32), twice_BLM, rtol=1e-2)


def test_one_expert_that_every_token_visits_is_the_dense_layer():
    layer = SwitchFFN(1, 12, name="ffn")
    x_BLM = np.random.default_rng(0).normal(size=(2, 8, 6)).astype(np.float32)
    # In training, too: its gate is 1 whatever the jitter, and it has room for all.
    y_BLM = compiled(layer)(x_BLM, training=True)
    dense = FeedForward(12)
    dense.build(x_BLM.shape)
    for variable, expert in zip(
        [*dense.wi, dense.wo], [*layer.experts.wi, layer.experts.wo], strict=True
    ):
        put(variable, expert.numpy()[0])
    assert error(y_BLM, compiled(dense)(x_BLM).numpy()) < 1e-6


def test_jitter_moves_the_router_and_not_what_the_experts_see():
    """Experts that give back their inputs: outputs are gates times inputs."""
    seen = []
    router = functools.partial(SwitchRouter, jitter=0.5, dropless=True)
    layer = SwitchFFN(4, 16, router=router)
    layer.experts = keras.layers.Identity()
    layer.router.build((None, None, 6))
    layer.built = True
    x_BLM = np.random.default_rng(0).normal(size=(2, 8, 6)).astype(np.float32)
    for training in (True, False, False):
        with collect() as reports:
            y_BLM = layer(x_BLM, training=training).numpy()
        gate_BL = reports[0].routing.gate_GKS.numpy().reshape(2, 8)
        np.testing.assert_allclose(y_BLM, gate_BL[..., None] * x_BLM, rtol=1e-6)
        seen.append(y_BLM)
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(seen[1], seen[2])


@pytest.mark.parametrize(
    "shape, groups",
    [
        # 1,536 tokens of 128 experts: in groups of 192 the capacity would be 1.
        (None, (1, 1536)),
        (("batch:2", "batch:batch"), (2, 768)),
        (("batch:8", "batch:batch"), (8, 192)),
    ],
)
def test_groups_too_small_for_the_capacity_factor_are_avoided_where_the_mesh_allows(shape, groups):
    with using(shape):
        layer = SwitchFFN(128, 8, group_size=4096, groups_multiple=8)
        assert layer.groups(64, 24) == groups
        # Of 8,192 tokens in groups of 1,024 it is as asked.
        assert layer.groups(64, 128) == (8, 1024)


def test_groups_are_as_large_as_the_mesh_allows_where_none_is_large_enough():
    with using(("batch:8", "batch:batch")):
        layer = SwitchFFN(128, 8, group_size=4096, groups_multiple=64)
        assert layer.groups(64, 24) == (8, 192)


def test_a_least_capacity_of_none_is_told_where_tokens_are_routed_and_not_before():
    """Decoding, one token a sequence, drops none."""
    layer = SwitchFFN(8, 8, router=functools.partial(SwitchRouter, min_capacity=0), group_size=8)
    assert layer.groups(64, 1) == (8, 8)
    x_BLM = np.ones((8, 1, 6), np.float32)
    with dropless():
        assert layer(x_BLM).shape == (8, 1, 6)
    tight = functools.partial(SwitchRouter, min_capacity=0, eval_capacity_factor=0.5)
    with pytest.raises(UserError, match="takes 0 of 8 tokens at a capacity factor of 0.5"):
        SwitchFFN(8, 8, router=tight, group_size=8)(x_BLM)
