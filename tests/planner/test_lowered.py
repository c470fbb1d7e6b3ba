"""What crosses devices in the training step, in the paper's five layouts (Sec. 5, Fig. 9).

Read off the step as DTensor lowers it, for a model of 2 + 2 layers of which two are sparse, on
eight devices, in bfloat16.
"""

import dataclasses
import functools
import math
from collections import Counter
from typing import NamedTuple

import gin
import numpy as np
import pytest
import tensorflow as tf

from switch_tf import config, runtime
from switch_tf.layers.base import lay_out
from switch_tf.layers.dispatch import EinsumDispatcher
from switch_tf.layers.group_router import ExpertChoiceRouter
from switch_tf.layers.multi_router import Top2Router
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_attention import SwitchAttention, SwitchProjection
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.mesh import Mesh
from switch_tf.metrics import tables
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant
from switch_tf.planner import lowered
from switch_tf.planner.activations import kept_bytes
from switch_tf.planner.counts import Counts, parts
from switch_tf.planner.dtypes import STAGES, stage_dtypes
from switch_tf.planner.estimate import PaperStep
from switch_tf.planner.parts import StepSizes
from switch_tf.planner.plan import collective_table, dtype_table, training_step
from tests.helpers import LAYOUTS, compiled, layout_of, place, task_data, tiny_model, using

BATCH, LENGTHS, D_MODEL, EXPERTS, GROUP_SIZE = 64, {"inputs": 16, "targets": 8}, 16, 8, 8
LAYERS, HEADS, D_KV = 2, 8, 4
DATA = task_data(None, LENGTHS, BATCH)


class Lowered(NamedTuple):
    """What is read off one training step in a layout: see `step_of`."""

    collectives: list
    dtypes: dict
    shape: dict
    names: list
    kept: dict


def model_of(**kwargs):
    """A model that is not built, and its optimizer; arguments by name."""
    router = functools.partial(SwitchRouter, z_loss_coef=1e-3, min_capacity=1)
    given = {"dtype": "bfloat16", "router": router} | kwargs
    optimizer = Adafactor(constant(0.1), min_dim_size_to_factor=16)
    return tiny_model(EXPERTS, GROUP_SIZE, built=False, **given), optimizer


@functools.cache
def step_of(name, **kwargs):
    """Collectives, dtypes and operations of one training step in a layout, and the mesh's shape.

    `microbatches` and arguments of the model by name.
    """
    options = {"microbatches": kwargs.pop("microbatches", 1)}
    with using(layout_of(name)) as mesh:
        model, optimizer = model_of(**kwargs)
        make_step, features = training_step(model, optimizer, mesh, DATA)
        step = lowered.LoweredStep.of(make_step(**options), features)
        definition = lowered.definition(step.texts[0])
        names = [(node.op, node.name) for node in definition.node_def]
        kept = kept_bytes(definition)
        return Lowered(step.collectives(), stage_dtypes(definition), mesh.shape, names, kept)


def counted(name, kind, **kwargs):
    found = step_of(name, **kwargs)[0]
    return Counter((c.dtype, c.size, c.devices) for c in found if c.kind == kind)


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_gathered(name):
    kinds = {one.kind for one in step_of(name)[0]}
    sends_tokens = {"all-to-all"} if "expert" in name else set()
    assert kinds == {"all-reduce"} | sends_tokens


@pytest.mark.parametrize("name", ["expert_data", "expert_model_data"])
def test_a_switch_layer_has_two_all_to_alls_forward_and_two_backward(name):
    """Each of [E, C, d_model] for each of a device's groups, in bfloat16."""
    ways = step_of(name)[2]["batch"]
    expected = Counter()
    for length in LENGTHS.values():
        groups = BATCH * length // GROUP_SIZE
        capacity = int(GROUP_SIZE * 1.25 / EXPERTS)
        size = groups // ways * EXPERTS * capacity * D_MODEL
        expected["bf16", size, ways] += 4
    assert counted(name, "all-to-all") == expected
    names = [n for op, n in step_of(name)[3] if op == "CollectiveAllToAllV2"]
    found = Counter(("encoder" in n, "gradient_tape" in n) for n in names)
    assert found == dict.fromkeys([(True, True), (True, False), (False, True), (False, False)], 2)


@pytest.mark.parametrize("name", ["data", "expert_data"])
def test_without_model_parallelism_only_gradients_and_figures_are_reduced(name):
    """Of the weights that every device has: all of them, or all but the experts.

    DTensor joins small all-reduces into one, and rounds its size up.
    """
    sizes = counted(name, "all-reduce")
    assert sum(sizes.values()) <= 5
    assert all(dtype == "f32" for dtype, _, _ in sizes)
    experts = LAYERS * 2 * EXPERTS * D_MODEL * 32
    total = {n: sum(s[1] * k for s, k in counted(n, "all-reduce").items()) for n in LAYOUTS}
    assert total["data"] - total["expert_data"] == experts


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "model"])
def test_each_gradient_is_reduced_once_over_the_batch(name):
    """What a device holds of the weights, but for experts that no other device of its row has."""
    found, shape = step_of(name).collectives, step_of(name).shape
    mesh = Mesh.on_paper(*layout_of(name))
    weights = Counts.of(functools.partial(tiny_model, EXPERTS, built=False)).weights
    held = sum(
        math.prod(weight.shape) // parts(weight.axes, mesh)
        for weight in weights
        if not ("experts" in weight.axes and "experts" in mesh.rules)
    )
    reduced = sum(c.size for c in found if c.kind == "all-reduce" and c.devices == shape["batch"])
    # Beside the step's figures, and what is lost to rounding.
    assert held <= reduced <= held + 8 * 1024


@pytest.mark.parametrize("name", ["model", "model_data", "expert_model_data"])
def test_model_parallelism_reduces_activations_of_a_row_of_devices(name):
    """[B/n, length, d_model], counted by hand, and beside it but some figures of each token.

    Encoder, forward: the embedding, two attentions, a dense and a Switch layer, whose experts have
    a slot a token here. Backward: the inputs of these four, and the output, which both layers of
    the decoder attend to. Decoder, forward: the embedding, four attentions, two feed-forward
    layers; backward: the inputs of these six, and the softmax.
    """
    shape = step_of(name)[2]
    batch = BATCH // shape.get("batch", 1)
    encoder, decoder = (batch * LENGTHS[name] * D_MODEL for name in ("inputs", "targets"))
    sizes = Counter()
    for (dtype, size, devices), count in counted(name, "all-reduce").items():
        if devices == shape["model"]:
            assert dtype == "f32"
            sizes[size] += count
    # DTensor joins four pairs of one of each.
    activations = {encoder: 6, decoder: 10, encoder + decoder: 4}
    assert {size: count for size, count in sizes.items() if size in activations} == activations
    assert encoder * 10 + decoder * 14 == sum(size * count for size, count in activations.items())
    rest = sum(size * count for size, count in sizes.items() if size not in activations)
    assert rest <= 4 * 1024 + batch * LENGTHS["targets"]


@pytest.mark.parametrize("name", ["model_data", "expert_model_data"])
def test_over_both_dimensions_of_a_mesh_but_figures_are_reduced(name):
    sizes = counted(name, "all-reduce")
    kinds = {devices for _, _, devices in sizes}
    shape = step_of(name)[2]
    assert kinds <= {shape["batch"], shape["model"], 8}
    # DTensor rounds up to 1,024.
    assert sum(size * count for (_, size, n), count in sizes.items() if n == 8) <= 1024


@pytest.mark.parametrize("router", [Top2Router, ExpertChoiceRouter])
def test_the_same_crosses_devices_whatever_the_router(router):
    """Buffers have the size of the capacity, not of the choices that a token makes."""
    options = {"z_loss_coef": 1e-3, "min_capacity": 1}
    options |= {"in_decoder": True} if router is ExpertChoiceRouter else {}
    other = step_of("expert_data", router=functools.partial(router, **options))[0]
    assert Counter(other) == Counter(step_of("expert_data")[0])


def switch_attention(**kwargs):
    router = functools.partial(SwitchRouter, min_capacity=1)
    projection = functools.partial(SwitchProjection, EXPERTS, group_size=GROUP_SIZE, router=router)
    return functools.partial(SwitchAttention, projection=projection, **kwargs)


def test_switch_attention_sends_queries_apart_from_keys_and_values():
    """All-to-alls of its two Switch layers a stack, whose outputs are one and two d_model wide."""
    added = counted("expert_data", "all-to-all", switch_attention=switch_attention())
    added -= counted("expert_data", "all-to-all")
    expected = Counter()
    for length in LENGTHS.values():
        slots = BATCH * length // 8
        width = HEADS * D_KV
        # Each way of the tokens, of the queries, and of the keys with the values.
        expected["bf16", slots * D_MODEL, 8] += 4
        expected["bf16", slots * width, 8] += 2
        expected["bf16", slots * 2 * width, 8] += 2
    assert added == expected


def test_switch_attention_gathers_no_heads():
    """It adds gradients: of the input by both Switch layers, not once, and of their gates."""
    found = counted("model", "all-reduce", switch_attention=switch_attention())
    before = counted("model", "all-reduce")
    added = sum(s[1] * n for s, n in found.items()) - sum(s[1] * n for s, n in before.items())
    tokens = BATCH * sum(LENGTHS.values())
    assert 0 <= added - tokens * (D_MODEL + 2) <= 2 * 1024


def test_a_step_of_micro_batches_is_lowered_as_it_runs():
    """The all-to-alls of half the tokens, twice; each gradient is reduced once a part."""
    whole = counted("expert_data", "all-to-all")
    halves = counted("expert_data", "all-to-all", microbatches=2)
    assert halves == {(d, size // 2, n): 2 * count for (d, size, n), count in whole.items()}
    largest = max(size for _, size, _ in counted("expert_data", "all-reduce"))
    assert counted("expert_data", "all-reduce", microbatches=2)["f32", largest, 8] == 2
    assert step_of("expert_data", microbatches=2)[1] == step_of("expert_data")[1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_router_computes_in_float32_and_the_rest_in_bfloat16(name):
    stages = step_of(name)[1]
    assert list(stages) == list(STAGES)
    for stage, dtypes in stages.items():
        expected = "float32" if stage.startswith("router/") else "bfloat16"
        assert dtypes.forward == (expected,), stage
        assert dtypes.backward == (expected,), stage


@functools.cache
def stages_of_arm(arm):
    """The stages' dtypes of an arm of the paper's Table 2, by its gin file, at a small size."""
    files = [f"tables/precision_{arm}.gin", "layouts/data.gin", "runs/plan.gin"]
    sizes = dict(d_model=16, d_kv=4, num_heads=4, d_ff=32, num_layers=1, expert_frequency=1)
    small = [f"TransformerEncoderDecoder.{name}={size}" for name, size in sizes.items()]
    try:
        config.load(files, [*small, "VOCAB_SIZE=64", "NUM_EXPERTS=8"])
        with using(("batch:1", "batch:batch")) as mesh:
            model = TransformerEncoderDecoder()
            make_step, features = training_step(
                model, Adafactor(), mesh, task_data(None, LENGTHS, BATCH)
            )
            step = lowered.LoweredStep.of(make_step(), features)
            return stage_dtypes(lowered.definition(step.texts[0]))
    finally:
        gin.clear_config()


def test_in_float32_every_stage_is():
    for stage, dtypes in stages_of_arm("float32").items():
        assert dtypes.forward == dtypes.backward == ("float32",), stage


def test_selective_precision_is_float32_in_the_router_alone():
    for stage, dtypes in stages_of_arm("selective").items():
        expected = "float32" if stage.startswith("router/") else "bfloat16"
        assert dtypes.forward == dtypes.backward == (expected,), stage


def test_a_router_in_bfloat16_is_seen():
    """The paper's arm that diverges."""
    stages = stages_of_arm("bfloat16")
    for stage in ("logits", "probabilities"):
        assert stages[f"router/{stage}"].forward == ("bfloat16",)
    # Noise is drawn in float32, and rounded.
    assert stages["router/noise"].forward == ("bfloat16", "float32")
    assert stages["router/places"].forward == ("float32",)
    assert stages["experts"].forward == ("bfloat16",)


def test_the_tables_have_a_row_for_each_kind_and_stage():
    found, stages, *_ = step_of("expert_data")
    lines = list(collective_table(found))
    assert lines[0].split() == ["collective", "dtype", "elements", "devices", "count", "bytes"]
    assert any(line.split()[:2] == ["all-to-all", "bf16"] for line in lines)
    total = tables.size(sum(one.bytes for one in found))
    assert lines[-1].split() == ["total", str(len(found)), *total.split()]
    assert [line.split()[0] for line in dtype_table(stages)][1:] == list(stages)


def test_a_function_that_was_called_before_is_not_lowered_again():
    with using(layout_of("data")):
        x_B = place([1.0] * 8, ("batch",))

        @compiled
        def double(x_B):
            return 2.0 * x_B

        assert lowered.collectives(lowered.lower(double, x_B)) == []
        with pytest.raises(ValueError, match="compiled before"):
            lowered.lower(double, x_B)


def test_without_the_start_for_it_nothing_can_be_lowered(monkeypatch):
    monkeypatch.delenv("TF_CPP_VMODULE")
    with pytest.raises(RuntimeError, match="shows_lowered"), runtime.lowered_functions():
        pass


def on_paper(name, **kwargs):
    """The same step on paper."""
    counts = Counts.of(lambda: model_of(**kwargs)[0])
    sizes = StepSizes(counts.model, DATA, Mesh.on_paper(*layout_of(name)))
    return PaperStep(sizes, counts, model_of()[1], rematerialize=counts.model.rematerialize)


@pytest.mark.parametrize("name", LAYOUTS)
def test_activations_on_paper_are_those_that_the_backward_pass_takes(name):
    step = on_paper(name).bytes_by_kind
    kept = step["activations"] + step["experts' buffers"]
    assert kept == pytest.approx(sum(step_of(name).kept.values()), rel=0.01)


def test_activations_on_paper_are_so_with_gated_experts_and_one_hot_dispatch():
    """And an untied softmax and dropout, in the layout of Switch-XXL."""
    router = functools.partial(SwitchRouter, z_loss_coef=1e-3, min_capacity=1)
    options = {"group_size": GROUP_SIZE, "router": router, "dispatcher": EinsumDispatcher}
    given = {"activation": "geglu", "tied_softmax": False, "dropout_rate": 0.1}
    given["switch_ffn"] = functools.partial(SwitchFFN, EXPERTS, **options)
    found, paper = step_of("expert_model_data", **given), on_paper("expert_model_data", **given)
    paper = dataclasses.replace(paper, sizes=dataclasses.replace(paper.sizes, one_hot=True))
    kept = paper.bytes_by_kind["activations"] + paper.bytes_by_kind["experts' buffers"]
    assert kept == pytest.approx(sum(found.kept.values()), rel=0.01)
    assert exchanged(paper) == pytest.approx(lowered_rows(found), rel=0.05)


def test_blocks_made_again_exchange_on_paper_what_they_do_lowered():
    found = step_of("expert_model_data", rematerialize=True)
    paper = on_paper("expert_model_data", rematerialize=True)
    assert exchanged(paper) == pytest.approx(lowered_rows(found), rel=0.05)


def exchanged(paper):
    """All-to-alls of tokens, and all-reduces of activations along 'model', in bytes."""
    sent = {(one.kind, one.over): one.sent for one in paper.traffic}
    return [sent["all-to-all", "batch"], sent["all-reduce", "model"]]


def lowered_rows(found):
    of = Counter()
    for one in found.collectives:
        of[one.kind, one.devices] += one.bytes
    return [of["all-to-all", found.shape["batch"]], of["all-reduce", found.shape["model"]]]


@pytest.mark.parametrize("name", ["expert_data", "expert_model_data"])
def test_on_gpu_a_bfloat16_model_exchanges_float32_alone(name, monkeypatch):
    """TensorFlow refuses all collectives of NCCL for bfloat16, not only its reductions."""
    before = step_of(name).collectives
    assert {one.kind for one in before if one.dtype == "bf16"} == {"all-to-all"}
    monkeypatch.setattr(runtime, "lacks_bfloat16_collectives", lambda: True)
    found = step_of.__wrapped__(name).collectives
    wide = [dataclasses.replace(o, dtype="f32") if o.dtype == "bf16" else o for o in before]
    assert Counter(found) == Counter(wide)


def test_dtensor_itself_reduces_and_gathers_bfloat16_in_float32():
    """Other than on TPU, by its sources; or more than all-to-alls would have to be cast for GPU."""

    @tf.function
    def reduced(x_BM):
        return tf.reduce_sum(x_BM, axis=0)

    @tf.function
    def gathered(x_BM):
        return lay_out(x_BM, (None, None))

    with using(("batch:8", "batch:batch")):
        x_BM = tf.cast(place(np.ones((8, 4), np.float32), ("batch",)), tf.bfloat16)
        for function in (reduced, gathered):
            (one,) = lowered.collectives(lowered.lower(function, x_BM))
            assert (one.kind, one.dtype) == ("all-reduce", "f32")
