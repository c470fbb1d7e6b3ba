import numpy as np
import pytest
import tensorflow as tf

from switch_tf.layers.dropout import Dropout, step_seed
from switch_tf.mesh import to_numpy
from tests.helpers import compiled, place, using

ONES = np.ones([16, 32, 64], np.float32)


def dropped(layer, x=ONES, seed=(3, 5), layout=None):
    """The layer's output in training with the given (seed, step)."""

    @compiled
    def run(x, seed):
        with step_seed(seed):
            return layer(x, training=True)

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
    y = dropped(Dropout(0.5, broadcast_length=True, name="a"))
    assert (y == y[:, :1]).all()
    assert (y[0] != y[1]).any()


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    for layer, training in ((Dropout(0.5), False), (Dropout(0.0), True)):
        np.testing.assert_array_equal(layer(tf.constant(ONES), training=training), ONES)
