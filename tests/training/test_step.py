import ctypes
import functools
import gc
import math
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.evaluation.eval_step import EvalStep
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.mesh import to_numpy
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import rsqrt
from switch_tf.training.step import TrainStep
from tests.helpers import VOCAB, place_features, put, random_features, using

STEPS = 20
ROUTER_Z_LOSS = 0.01
EXPERTS = "batch:batch,experts:batch"
MODEL = "heads:model,d_ff:model,vocab:model"
LAYOUTS = [
    ("batch:4", "batch:batch"),
    *((f"batch:{n}", EXPERTS) for n in (2, 8)),
    *((f"model:{n}", MODEL) for n in (2, 8)),
    *((f"batch:{n},model:{m}", f"{EXPERTS},{MODEL}") for n, m in ((2, 2), (4, 2), (2, 4))),
]


def build(dtype="float32", capacity_factor=1.25, dropout_rate=0.0, jitter=0.0):
    """A model of 1 + 1 layers, both sparse, that groups alike on every mesh."""
    # A least of four would be far from the factor in groups this small, which then differ by mesh.
    router = functools.partial(
        SwitchRouter,
        capacity_factor=capacity_factor,
        jitter=jitter,
        z_loss_coef=ROUTER_Z_LOSS,
        min_capacity=1,
    )
    switch_ffn = functools.partial(SwitchFFN, 8, group_size=16, groups_multiple=8, router=router)
    model = TransformerEncoderDecoder(
        VOCAB,
        d_model=16,
        d_kv=4,
        num_heads=8,
        d_ff=32,
        num_layers=1,
        expert_frequency=1,
        switch_ffn=switch_ffn,
        dropout_rate=dropout_rate,
        dtype=dtype,
    )
    model.build()
    return model


def batch(seed=0):
    arrays = random_features(seed=seed)
    arrays["decoder_loss_weights"] = (arrays["decoder_target_tokens"] > 0).astype(np.int32)
    return arrays


def train_step(model, mesh, seed=3):
    optimizer = Adafactor(rsqrt(warmup_steps=100))
    optimizer.build(model.trainable_variables)
    return TrainStep(model, optimizer, mesh, seed)


@functools.cache
def losses(layout):
    with using(layout) as mesh:
        step = train_step(build(), mesh)
        return [step(place_features(batch(i % 4)), i)["loss"] for i in range(STEPS)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_mesh_gives_the_loss_curve_of_one_device(layout):
    expected = losses(("batch:1", EXPERTS))
    assert expected[-1] < expected[0] - 0.5
    np.testing.assert_allclose(losses(layout), expected, rtol=1e-4)


@pytest.fixture(scope="module")
def spread():
    """A mesh with experts and batch on four devices."""
    with using(("batch:4", EXPERTS)) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def stepped(spread):
    """A model in bfloat16 with dropout and jitter, and its step."""
    model = build(dtype="bfloat16", dropout_rate=0.2, jitter=1e-2)
    return model, train_step(model, spread)


def weights(model):
    return {v.path: to_numpy(v.value.read_value()) for v in model.trainable_variables}


def of_routers(figures):
    """The routers' part of the loss."""
    layers = figures["routing"].values()
    return sum(layer["weighted_loss"] + ROUTER_Z_LOSS * layer["z_loss"] for layer in layers)


def test_a_step_reports_the_figures_of_the_batch(stepped):
    model, step = stepped
    arrays = batch()
    figures = step(place_features(arrays), 0)
    assert figures["tokens"] == arrays["decoder_loss_weights"].sum()
    assert figures["not_finite"] == []
    assert figures["learning_rate"] == pytest.approx(0.1)
    assert -figures["nlp"] == pytest.approx(math.log(VOCAB), abs=1.5)
    expected = -figures["nlp"] + figures["z_loss"] + of_routers(figures)
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)
    assert list(figures["routing"]) == [
        f"model/{stack}/layer_0/feed_forward/switch_ffn" for stack in ("encoder", "decoder")
    ]
    for layer in figures["routing"].values():
        assert layer["load_E"].sum() == pytest.approx(1.0, abs=1e-5)
        assert 0.0 <= layer["dropped"] < 1.0
        assert 0.9 < layer["load_balancing_loss"] < 8.0


def test_weights_stay_float32_in_a_bfloat16_model(stepped):
    model, _ = stepped
    assert {v.value.dtype for v in model.trainable_variables} == {tf.float32}


def test_noise_is_a_function_of_seed_and_step(spread, stepped):
    model, step = stepped
    start = weights(model)
    features = place_features(batch())
    found = {}
    for name, number in (("first", 7), ("again", 7), ("later", 8)):
        for variable in model.trainable_variables:
            put(variable, start[variable.path])
        found[name] = step(features, number)["nlp"]
    assert found["first"] == found["again"]
    assert found["first"] != found["later"]


def resident_bytes():
    """What this process holds, without what earlier tests have freed."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat_over_a_thousand_batches():
    """But for what TensorFlow's own collectives lose on CPU: see docs/keras_dtensor.md."""

    def growth(calls, call):
        for number in range(calls // 5):
            call(number)
        before = resident_bytes()
        for number in range(calls):
            call(number)
        return (resident_bytes() - before) / calls

    with using(("batch:2", EXPERTS)) as mesh:
        step, same = train_step(build(), mesh), place_features(batch())
        # 2 kB each.
        assert growth(1000, lambda number: place_features(batch(number % 7))) < 500
        assert growth(250, lambda number: step(same, number)) < 20_000


@pytest.mark.parametrize(
    "path, first",
    [
        ("model/embedding/table", "model/embedding"),
        ("model/encoder/norm/scale", "model/encoder/norm"),
        ("model/encoder/layer_0/self_attention/attention/query", "model/encoder/layer_0"),
        ("model/decoder/layer_0/feed_forward/switch_ffn/experts/wo", "model/decoder/layer_0"),
    ],
)
def test_a_loss_that_is_not_finite_names_the_first_layer(spread, path, first):
    model = build()
    step = train_step(model, spread)
    variable = next(v for v in model.trainable_variables if v.path == path)
    put(variable, np.full(variable.shape, np.nan, np.float32))
    figures = step(place_features(batch()), 0)
    assert math.isnan(figures["loss"])
    assert figures["not_finite"][0] == first


def test_the_mean_over_sequences_is_that_of_the_losses_of_each_alone():
    arrays = batch()
    arrays["decoder_loss_weights"][0, 2:] = 0
    with using(("batch:2,model:2", "batch:batch,vocab:model")) as mesh:
        model = build(capacity_factor=8.0)
        optimizer = Adafactor(rsqrt(warmup_steps=100))
        optimizer.build(model.trainable_variables)
        kind = "AVERAGE_PER_SEQUENCE"
        step = TrainStep(model, optimizer, mesh, 3, 0.0, loss_normalizing_factor=kind)
        evaluation = EvalStep(model)
        expected = []
        for row in range(len(arrays["decoder_loss_weights"])):
            only = dict(arrays)
            only["decoder_loss_weights"] = np.zeros_like(arrays["decoder_loss_weights"])
            only["decoder_loss_weights"][row] = arrays["decoder_loss_weights"][row]
            sums = evaluation(place_features(only))
            expected.append(sums["cross_entropy_dropless"] / sums["tokens"])
        figures = step(place_features(arrays), 0)
        assert figures["loss"] - of_routers(figures) == pytest.approx(np.mean(expected), rel=1e-4)
    assert -figures["nlp"] != pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_frozen_weights_stay_and_have_no_slots(spread, microbatches):
    model, optimizer = build(), Adafactor(rsqrt(warmup_steps=100))
    step = TrainStep(
        model, optimizer, spread, 3, microbatches=microbatches, frozen=["router", "^model/enc"]
    )
    optimizer.build(step.variables)
    before = weights(model)
    figures = step(place_features(batch()), 0)
    changed = {path for path, value in weights(model).items() if (value != before[path]).any()}
    assert changed == {path for path in before if "router" not in path and "/enc" not in path}
    assert {name.rpartition("/")[0] for name in optimizer.slots} == changed
    assert "encoder/router" not in figures["norms"]["gradient"]
    sizes = [
        sum(before[path].size for path in paths) for paths in (before.keys() - changed, before)
    ]
    told = f"; frozen: {len(before) - len(changed)} of {len(before)} variables, "
    assert step.describe().endswith(f"{told}{sizes[0]:,} of {sizes[1]:,} parameters")


def test_a_pattern_of_no_weight_and_one_of_all_are_one_line(stepped):
    model, _ = stepped
    with pytest.raises(UserError, match="^FROZEN: 'ruoter' matches no weight's path: give part of"):
        TrainStep(model, None, None, 0, frozen=["router", "ruoter"])
    with pytest.raises(UserError, match=r"^FROZEN=\['model'\] leaves no weight to train: "):
        TrainStep(model, None, None, 0, frozen=["model"])


def test_an_unknown_normalizing_factor_is_told():
    with pytest.raises(UserError, match="'TOKENS': give 'NUM_REAL_TARGET_TOKENS' or 'AVERAGE"):
        TrainStep(None, None, None, 0, loss_normalizing_factor="TOKENS")
