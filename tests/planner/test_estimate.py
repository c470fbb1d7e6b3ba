"""A step on a slice: bytes by kind, seconds by what limits it, and whether it fits."""

import dataclasses
import functools
import re
from collections import Counter
from pathlib import Path

import gin
import pytest

from switch_tf import config
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.layers.base import Layer
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_attention import SwitchAttention, SwitchProjection
from switch_tf.mesh import Mesh
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.adamw import AdamW
from switch_tf.optimizers.schedules import constant
from switch_tf.pages import sharding as page
from switch_tf.planner import estimate as planner
from switch_tf.planner.counts import Counts
from switch_tf.planner.estimate import Estimate, PaperStep
from switch_tf.planner.parts import StepSizes
from switch_tf.planner.plan import paper_step
from switch_tf.planner.slices import Slice
from switch_tf.setup.mesh_model import ModelSetup
from tests.helpers import LAYOUTS, layout_of, task_data, tiny_model

DOCS = Path(__file__).parent.parent.parent / "docs"
DATA = task_data(None, {"inputs": 16, "targets": 8}, 64)
ROW = re.compile(r"^\| (all-\S+) \| (\w+) \| ([\d,]+) \| (\d+) \| (\d+) \|", re.MULTILINE)


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def paper(layout="expert_data", mesh=None, optimizer=None, parts=1, one_hot=False, **kwargs):
    """The step of a tiny model on paper, in a layout on eight devices or on a mesh."""
    mesh = mesh or Mesh.on_paper(*layout_of(layout))
    kwargs = {"dtype": "bfloat16"} | kwargs
    counts = Counts.of(functools.partial(tiny_model, built=False, **kwargs))
    sizes = StepSizes(counts.model, DATA, mesh, parts, one_hot)
    optimizer = optimizer or Adafactor(constant(0.1))
    return PaperStep(sizes, counts, optimizer, rematerialize=counts.model.rematerialize)


def lowered_bytes(layout):
    """Kind and devices -> bytes of all collectives, as docs/sharding.md has them.

    The page is compared with steps that are lowered by tests/pages/test_sharding.py.
    """
    text = (DOCS / "sharding.md").read_text().partition(f"\n## {layout}\n")[2].partition("\n## ")[0]
    found = Counter()
    for kind, dtype, elements, devices, count in ROW.findall(text):
        size = {"f32": 4, "bf16": 2}[dtype]
        found[kind, int(devices)] += size * int(elements.replace(",", "")) * int(count)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_collectives_on_paper_are_those_of_the_lowered_step(layout):
    """All-to-alls to the byte; all-reduces within 1.5%, which are the figures of the log."""
    bindings = [f"{key}={value!r}" for key, value in page._SIZES.items()]
    bindings += [f"MESH_SHAPE='{layout_of(layout)[0]}'"]
    config.load(["models/switch_tiny.gin", f"layouts/{layout}.gin", "runs/plan.gin"], bindings)
    setup = ModelSetup()
    data = TaskData(batch_size=page._BATCH, task_feature_lengths=page._LENGTHS)
    counts = Counts.of(setup.model)
    step = paper_step(counts, data, setup.optimizer(), setup.mesh_on_paper(data))
    found = {(one.kind, one.devices): one.sent for one in step.traffic}
    real = lowered_bytes(layout)
    # Of both dimensions of a mesh, only figures are summed.
    across = real.pop(("all-reduce", 8), 0) if len(step.sizes.mesh.shape) > 1 else 0
    assert across <= 4096
    assert found.keys() == real.keys()
    for key, sent in found.items():
        exact = key[0] == "all-to-all"
        assert sent == real[key] if exact else 0.985 * real[key] <= sent <= real[key], key


def test_weights_gradients_and_slots_are_those_that_are_counted():
    step = paper(optimizer=AdamW(constant(0.1)))
    found, mesh = step.bytes_by_kind, step.sizes.mesh
    assert found["weights"] == found["gradients"] == step.counts.weight_bytes(mesh)
    assert found["optimizer slots"] == 2 * found["weights"]
    assert "sums of gradients" not in found
    in_parts = paper(parts=2).bytes_by_kind
    assert in_parts["sums of gradients"] == found["gradients"]


def test_what_is_frozen_has_neither_gradients_nor_slots_nor_all_reduces():
    step = paper("data")
    frozen = dataclasses.replace(step, is_trained=lambda path: "experts" not in path)
    experts = 4 * step.counts.expert_parameters
    for kind in ("weights", "gradients"):
        lost = step.bytes_by_kind[kind] - frozen.bytes_by_kind[kind]
        assert lost == (experts if kind == "gradients" else 0)
    assert frozen.bytes_by_kind["optimizer slots"] < step.bytes_by_kind["optimizer slots"]
    assert step.traffic[0].sent - frozen.traffic[0].sent == experts


def test_parts_of_a_batch_keep_as_much_less_and_reduce_each_gradient_again():
    whole, halves = paper("data"), paper("data", parts=2)
    bias = 4 * 8 * (16**2 + 8**2)
    table = 4 * 32 * 8 * 2
    gradients = whole.bytes_by_kind["gradients"] - table + bias
    assert halves.traffic[0].sent == 2 * whole.traffic[0].sent == 2 * gradients
    kept = [step.bytes_by_kind["activations"] for step in (whole, halves)]
    # But for the one-hot of relative positions, of which there is one.
    positions = 4 * 32 * (16**2 + 8**2)
    assert kept[0] - positions == 2 * (kept[1] - positions)


def test_made_again_blocks_keep_their_inputs_and_send_tokens_a_third_time():
    plain, again = paper(), paper(rematerialize=True)
    sent = [{one.kind: one.sent for one in step.traffic}["all-to-all"] for step in (plain, again)]
    assert 2 * sent[1] == 3 * sent[0]
    kept = again.bytes_by_kind["activations"] + again.bytes_by_kind["experts' buffers"]
    assert kept == again.activation_bytes[True] < plain.activation_bytes[False]
    assert plain.activation_bytes == again.activation_bytes
    assert plain.flops < again.flops < 4 / 3 * plain.flops + 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_are_those_of_the_model_divided_over_devices(layout):
    """Forward and backward; experts compute slots, of which there is one a token here."""
    router = functools.partial(SwitchRouter, min_capacity=1, capacity_factor=1.0)
    step = paper(layout, router=router)
    mesh = step.sizes.mesh
    model, lengths = step.counts.model, DATA.task_feature_lengths
    whole = 3 * DATA.batch_size * model.flops(lengths["inputs"], lengths["targets"])
    if "vocab" in mesh.rules:
        # The embedding is a product, too.
        tokens = DATA.batch_size * sum(lengths.values())
        whole += 2 * 2 * tokens * model.vocab_size * model.d_model
    routers = 3 * 2 * DATA.batch_size * sum(lengths.values()) * model.d_model * 8
    model_ways = mesh.shape.get("model", 1)
    # Every device along 'model' routes all tokens of its row.
    assert step.flops == pytest.approx(
        (whole - routers) / mesh.size + routers * model_ways / mesh.size
    )


def test_one_hot_dispatch_adds_its_products():
    plain, one_hot = paper(), paper(one_hot=True)
    tokens, slots, width = 64 * (16 + 8) // 8, 8 * 4, 16
    # Of 16 tokens, an expert takes 4 at least; forward two products, backward three.
    assert one_hot.flops - plain.flops == 5 * 2 * tokens * slots * width
    assert one_hot.bytes_by_kind["activations"] > plain.bytes_by_kind["activations"]


def test_switch_attention_sends_its_queries_and_its_keys_with_values():
    projection = functools.partial(SwitchProjection, 8, group_size=16)
    attention = functools.partial(SwitchAttention, projection=projection)
    plain, more = paper(), paper(switch_attention=attention)
    sent = [{t.kind: t.sent for t in step.traffic}["all-to-all"] for step in (plain, more)]
    slots, d_model, width = 2 * (64 * (16 + 8) // 8), 16, 8 * 4
    # Each way, of the tokens twice, and of one and two kernels' outputs, in bfloat16.
    assert sent[1] - sent[0] == 2 * 2 * slots * (2 * d_model + 3 * width)


def test_a_layout_whose_collectives_are_not_known_is_refused():
    for rules in ("d_model:model", "batch:batch,experts:model"):
        mesh = Mesh.on_paper("batch:4,model:2", rules)
        with pytest.raises(
            UserError, match="--slice and --cores plan layouts that shard batch, ex"
        ):
            assert paper(mesh=mesh).traffic


class OwnFFN(Layer):
    """A feed-forward layer of a user's, without weights."""

    def __init__(self, d_ff, activation, init_scale, expert_dropout_rate, **kwargs):
        super().__init__(**kwargs)

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""

    def flops(self, d_model, length):
        """None."""
        return 0


def test_a_layer_whose_tensors_are_not_known_is_refused():
    with pytest.raises(UserError, match="plan SwitchFFN and FeedForward, but .*ffn is a OwnFFN"):
        assert paper(switch_ffn=OwnFFN).flops


def test_a_mesh_of_another_size_than_the_slice_is_refused():
    with pytest.raises(UserError, match="MESH_SHAPE has 8 devices, but v4-32 has 16, 1 a chip"):
        Estimate(paper(), Slice.parse("v4-32"))


def test_time_is_the_sum_of_the_roofline_over_the_efficiency():
    found = Estimate(paper(), Slice.parse("v3-8"))
    chip = found.slice.chip
    assert found.roofline["matrix products"] == found.step.flops / (chip.flops["bfloat16"] / 2)
    assert found.roofline["memory"] == found.step.moved / (chip.memory_bandwidth / 2)
    assert set(found.roofline) == {"matrix products", "memory", "all-reduce", "all-to-all"}
    assert found.seconds == sum(found.roofline.values()) / planner.EFFICIENCY
    assert found.examples_per_second == 64 / found.seconds
    assert found.chip_hours(3600) == pytest.approx(4 * found.seconds)
    assert found.dollars(3600) == pytest.approx(2.0 * found.chip_hours(3600))


def test_what_is_printed_adds_up_and_names_what_does_not_fit(monkeypatch):
    found = Estimate(paper(), Slice.parse("v3-8"))
    printed = "\n".join(planner.lines(found, 1000))
    assert "it fits: " in printed and "a step: matrix products" in printed
    planner.check_fits(found)
    monkeypatch.setattr("switch_tf.planner.slices.RESERVED_BYTES", 2**34)
    assert "it fits" not in "\n".join(planner.lines(found, 1000))
    with pytest.raises(UserError, match="^the step needs .* on each device, but a device of v3-8"):
        planner.check_fits(found)


def test_dropout_keeps_masks_of_the_experts_and_what_it_leaves():
    """Of ReLU two more of the experts' hidden layer, and one more of the dense one."""
    plain, dropped = paper(), paper(dropout_rate=0.1)
    kept = [step.bytes_by_kind["activations"] for step in (plain, dropped)]
    tokens, slots, d_ff = 64 * (16 + 8) // 8, 2 * (64 * (16 + 8) // 8), 32
    assert kept[1] - kept[0] == 2 * d_ff * (2 * slots + tokens)
