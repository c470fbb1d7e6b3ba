import functools

import pytest

from switch_tf.errors import UserError
from switch_tf.layers.router import SwitchRouter
from switch_tf.metrics.tables import size
from switch_tf.models.encoder_decoder import parameter_count
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant, rsqrt
from switch_tf.setup.describe import describe_optimizer, details, overview
from tests.helpers import held_bytes, task_data, tiny_model, using

LENGTHS = {"inputs": 16, "targets": 8}
LAYER = "model/encoder/layer_0/feed_forward/switch_ffn"
MIXED = ("batch:2,model:4", "batch:batch,experts:batch,d_ff:model,vocab:model")
ALL = {
    "one device": ("batch:1", "batch:batch"),
    "experts with data": ("batch:8", "batch:batch,experts:batch"),
    "mixed": MIXED,
}


def described(layout, batch_size=8, check=None, lengths=LENGTHS, routing=None, **kwargs):
    """Lines of the description of a tiny model; `check(model, optimizer)` is called beside."""
    options = {"capacity_factor": 1.25, "eval_capacity_factor": 2.0, "min_capacity": 1}
    options |= routing or {}
    router = functools.partial(SwitchRouter, **options)
    with using(layout) as mesh:
        model = tiny_model(router=router, **({"num_layers": 1, "expert_frequency": 1} | kwargs))
        optimizer = Adafactor(constant(0.1), min_dim_size_to_factor=16)
        optimizer.build(model.trainable_variables)
        if check is not None:
            check(model, optimizer)
        data = task_data(None, lengths, batch_size)
        return [*overview(model, optimizer, mesh), *details(model, data, mesh)]


def cells(lines, first):
    """Cells of the row that starts with `first`."""
    (row,) = [line for line in lines if line.split("  ")[0].strip() == first]
    return [cell.strip() for cell in row.split("  ") if cell.strip()]


@pytest.fixture(scope="module")
def mixed():
    counts = []
    lines = described(MIXED, check=lambda model, _: counts.append(parameter_count(model)))
    return lines, counts[0]


def test_the_model_and_the_mesh_come_first(mixed):
    lines, parameters = mixed
    assert lines[0] == (
        f"model: {parameters:,} parameters, 1 + 1 layers, 2 Switch layers of 8 experts, computes "
        "in float32"
    )
    assert lines[2:3] == [
        "mesh: batch 2, model 4; rules: batch -> batch, experts -> batch, d_ff -> model, "
        "vocab -> model",
    ]


@pytest.mark.parametrize(
    "name, axes, shape, layout, size",
    [
        # Of 8 x 16 x 32 floats of 4 bytes, an eighth.
        ("experts/wi", "experts d_model d_ff", "8x16x32", "batch - model", "2.05 kB"),
        ("experts/wo", "experts d_ff d_model", "8x32x16", "batch model -", "2.05 kB"),
        ("router/kernel", "d_model -", "16x8", "- -", "0.512 kB"),
    ],
)
def test_a_weight_is_shown_with_axes_shape_layout_and_bytes(mixed, name, axes, shape, layout, size):
    path = f"model/encoder/layer_0/feed_forward/switch_ffn/{name}"
    assert cells(mixed[0], path) == [path, axes, shape, layout, size]


def test_every_weight_has_a_row():
    paths = []
    lines = described(
        ALL["one device"], check=lambda m, _: paths.extend(v.path for v in m.trainable_variables)
    )
    heading = next(i for i, line in enumerate(lines) if line.startswith("weight "))
    rows = lines[heading + 1 :][: len(paths)]
    assert cells(lines, "weight") == ["weight", "axes", "shape", "layout", "per device"]
    assert [row.split()[0] for row in rows] == paths


@pytest.mark.parametrize("layout", ALL)
def test_the_bytes_are_those_that_a_device_holds(layout):
    sums = []

    def check(model, optimizer):
        weights = model.trainable_variables
        slots = optimizer.slots.values()
        sums.extend(sum(map(held_bytes, variables)) for variables in (weights, slots))

    lines = described(ALL[layout], batch_size=16, check=check)
    expected = f"per device: weights {size(sums[0])}, optimizer slots {size(sums[1])}"
    assert lines[1] == expected


def test_groups_and_capacities_of_each_switch_layer_are_shown(mixed):
    lines, _ = mixed
    columns = ["switch layer", "experts", "groups", "group size", "capacity", "in eval"]
    columns += ["coef.", "z coef."]
    assert cells(lines, "switch layer") == columns
    # 16 tokens a group over 8 experts: 2.5 at 1.25, rounded down, and 4 at 2.0.
    for stack, groups in (("encoder", "8"), ("decoder", "4")):
        path = f"model/{stack}/layer_0/feed_forward/switch_ffn"
        assert cells(lines, path) == [path, "8", groups, "16", "2", "4", "0.01", "0.0"]


def test_groups_far_smaller_than_asked_for_are_said():
    lines = described(ALL["one device"], batch_size=1, lengths={"inputs": 34, "targets": 16})
    # 34 tokens have no divisor from 3 to 16 but 2.
    assert [line for line in lines if "no better divisor" in line] == [
        "model/encoder/layer_0/feed_forward/switch_ffn: groups have 2 tokens, not 16, because 1 x "
        "34 tokens have no better divisor: use rounder values of BATCH_SIZE and "
        "TASK_FEATURE_LENGTHS"
    ]


def test_a_capacity_far_from_its_factor_is_said():
    """Of 16 tokens a group over 8 experts, least 1 and least 4 tokens an expert."""
    mend = (
        "use larger groups (BATCH_SIZE, GROUPS_MULTIPLE, GROUP_SIZE), fewer experts, or another "
        "Router.min_capacity"
    )
    layers = f"{LAYER} and 1 more layer: an expert takes"
    for routing, expected in (
        (
            {"capacity_factor": 0.9, "eval_capacity_factor": 2.0},
            f"{layers} 1 of a group's 16 tokens, a capacity factor of 0.5 instead of "
            f"CAPACITY_FACTOR=0.9, so more tokens are dropped: {mend}",
        ),
        (
            {"eval_capacity_factor": 1.0, "min_capacity": 4, "capacity_factor": 2.0},
            f"{layers} 4 of a group's 16 tokens, a capacity factor of 2 instead of "
            f"EVAL_CAPACITY_FACTOR=1.0, so experts do more work: {mend}",
        ),
        ({"capacity_factor": 1.0, "eval_capacity_factor": 2.0}, None),
    ):
        lines = described(ALL["one device"], routing=routing)
        found = [line for line in lines if "an expert takes" in line]
        assert found == ([] if expected is None else [expected])


def test_what_is_in_force_is_said():
    """Every rate, capacity factor, coefficient and policy."""
    routing = {"policy": "input_dropout", "z_loss_coef": 1e-3}
    rates = {"dropout_rate": 0.1, "expert_dropout_rate": 0.4, "dtype": "bfloat16"}
    lines = described(ALL["one device"], routing=routing, **rates)
    assert lines[3:6] == [
        "float32: weights, norms, losses, attention logits, softmax logits",
        "dropout: rate 0.1, inside the experts 0.4",
        "router: SwitchRouter in float32, input_dropout 0.1, in eval argmax; capacity factor "
        "1.25, in eval 2.0, at least 1 tokens per expert; load-balancing coefficient 0.01 over "
        "tokens, z-loss coefficient 0.001; temperature 1.0",
    ]


@pytest.mark.parametrize(
    "step, offset, by, rate, first",
    [(0, 0, "the run's step", 0.1, 0), (21, 379, "the optimizer's step, 379 ahead of", 0.05, 400)],
)
def test_the_schedule_its_counter_and_the_first_rate_are_said(step, offset, by, rate, first):
    of_run = Adafactor(rsqrt(warmup_steps=100)), step, offset
    line = describe_optimizer(*of_run, train_steps=22)
    assert line.startswith(f"learning rate: rsqrt(warmup_steps=100, scale=1.0) of {by}")
    assert line.endswith(f": {rate} at the first update (step {first})")
    assert describe_optimizer(*of_run, train_steps=step).endswith("; no step is left")


@pytest.mark.parametrize("factor, cut", [(8.0, False), (8.5, True), (20.0, True)])
def test_a_capacity_that_is_cut_is_said(factor, cut):
    lines = described(ALL["one device"], routing={"capacity_factor": factor})
    path = "model/encoder/layer_0/feed_forward/switch_ffn"
    assert cells(lines, path)[4] == "16"
    said = f"CAPACITY_FACTOR={factor} asks for more tokens than a group has: capacity is cut to 16"
    assert any(line.endswith(f": {said}") for line in lines) == cut
    assert any("cut to" in line for line in lines) == cut


@pytest.mark.parametrize(
    "setting, value, name",
    [
        ("eval_capacity_factor", 8.5, "EVAL_CAPACITY_FACTOR"),
        ("absolute_capacity", 17, "Router.absolute_capacity"),
        ("min_capacity", 17, "Router.min_capacity"),
    ],
)
def test_other_capacities_that_are_cut_are_said_once(setting, value, name):
    lines = described(ALL["one device"], routing={setting: value})
    assert [line for line in lines if "cut to" in line] == [
        f"{LAYER} and 1 more layer: {name}={value} asks for more tokens than a group has: capacity "
        "is cut to 16"
    ]


def test_a_dense_model_is_said_to_be_dense():
    lines = described(ALL["one device"], expert_frequency=0, dtype="bfloat16")
    assert ", dense, " in lines[0]
    assert lines[-1] == "no switch layers: the model is dense"
    assert lines[0].endswith("computes in bfloat16")


def test_a_mesh_without_rules_is_said_to_have_none():
    assert described(("batch:2", ""))[2] == "mesh: batch 2; rules: none"


def test_groups_that_do_not_divide_are_one_line():
    with pytest.raises(UserError) as caught:
        described(ALL["experts with data"], batch_size=8)
    assert str(caught.value) == (
        "GROUP_SIZE=16 and GROUPS_MULTIPLE=1 split a batch of 8 x 8 tokens into 4 groups, not "
        "divisible by 8 devices: set GROUPS_MULTIPLE=8"
    )


def test_a_router_that_drops_nothing_has_its_cost_stated():
    lines = described(ALL["one device"], routing={"dropless": True})
    assert lines[-1] == (
        "dropless: no token is dropped; experts and all-to-alls process 8 slots per token, instead "
        "of 1.25 with CAPACITY_FACTOR"
    )
