import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf.layers.attention import Attention
from switch_tf.layers.context import step_seed
from switch_tf.layers.dropout import Dropout
from switch_tf.mesh import local_places, to_numpy
from switch_tf.models.transformer import Residual
from tests.helpers import compiled, place, using

ONES = np.ones([16, 32, 64], np.float32)
AXES = ("batch", "length", None)


def dropped(layer, x=ONES, seed=(3, 5), layout=None):
    """The layer's output in training with the given (seed, step)."""

    @compiled
    def run(x, seed):
        with step_seed(seed):
            return layer(x, axes=AXES, training=True)

    with using(layout):
        y = run(place(x, ["batch"]), place(np.int32(seed)))
        return to_numpy(y)


def test_a_share_of_the_values_is_dropped_and_the_rest_scaled_up():
    y = dropped(Dropout(0.2, name="a"))
    assert set(np.unique(y)) == {np.float32(0.0), np.float32(1.25)}
    assert (y == 0).mean() == pytest.approx(0.2, abs=0.01)
    assert y.mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("seed, name", [((3, 6), "a"), ((4, 5), "a"), ((3, 5), "b")])
def test_the_mask_is_a_function_of_seed_step_and_layer(seed, name):
    first = dropped(Dropout(0.5, name="a"))
    np.testing.assert_array_equal(first, dropped(Dropout(0.5, name="a")))
    other = dropped(Dropout(0.5, name=name), seed=seed)
    assert (first == other).mean() == pytest.approx(0.5, abs=0.02)


def test_the_mask_varies_over_the_shards_of_a_batch():
    y = dropped(Dropout(0.5, name="a"), layout=("batch:4", "batch:batch"))
    assert (y == 0).mean() == pytest.approx(0.5, abs=0.01)
    shards = y.reshape(4, -1)
    for i in range(1, 4):
        assert (shards[0] == shards[i]).mean() == pytest.approx(0.5, abs=0.02)


def test_one_mask_serves_all_positions_where_it_is_broadcast():
    y = dropped(Dropout(0.5, broadcast_axes=(1,), name="a"))
    assert (y == y[:, :1]).all()
    assert (y[0] != y[1]).any()


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    for layer, training in ((Dropout(0.5), False), (Dropout(0.0), True)):
        y = layer(tf.constant(ONES), axes=AXES, training=training)
        np.testing.assert_array_equal(y, ONES)


MESHES = {
    "no mesh": None,
    "model": ("model:4", "heads:model"),
    "model and data": ("batch:2,model:4", "batch:batch,heads:model"),
}


@pytest.mark.parametrize("layout", MESHES)
def test_devices_that_hold_the_same_draw_the_same(layout):
    """In an attention block, whose two noises are spread over one and over two mesh dimensions.

    The gradient says how the loss changes, and the devices of a row have one output: neither was
    so where DTensor spread each noise as it found best.
    """
    random = np.random.default_rng(0)
    x_BLM, weight_BLM = random.normal(size=(2, 8, 8, 16)).astype(np.float32)
    with using(MESHES[layout]):
        block = Residual(Attention(8, 4, 0.3, name="attention"), 0.3, name="block")
        block.build(x_BLM.shape)

        @compiled
        def run(x_BLM, weight_BLM):
            with tf.GradientTape() as tape:
                tape.watch(x_BLM)
                with step_seed(tf.constant([3, 4])):
                    y_BLM = block(x_BLM, training=True)
                loss = tf.reduce_sum(tf.square(y_BLM) * weight_BLM)
            return loss, tape.gradient(loss, x_BLM), y_BLM

        def at(x_BLM):
            return run(place(x_BLM, ["batch"]), place(weight_BLM, ["batch"]))

        _, gradient, y_BLM = at(x_BLM)
        gradient_BLM = to_numpy(gradient)
        slope = np.linalg.norm(gradient_BLM)
        ahead, behind = (
            float(to_numpy(at(x_BLM + move * gradient_BLM / slope)[0])) for move in (1e-2, -1e-2)
        )
        assert (ahead - behind) / 2e-2 == pytest.approx(slope, rel=1e-3)
        if layout != "no mesh":
            found = {}
            for where, part in zip(local_places(y_BLM), dtensor.unpack(y_BLM), strict=True):
                np.testing.assert_array_equal(found.setdefault(str(where), part), part)
