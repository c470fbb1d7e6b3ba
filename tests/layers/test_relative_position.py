import numpy as np
import pytest

from switch_tf.layers.relative_position import RelativePositionBias, relative_position_bucket
from tests.helpers import GOLDEN, compiled, put


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_mesh_tensorflows(bidirectional):
    with np.load(GOLDEN / "mesh_tf/adafactor.npz") as arrays:
        offsets = arrays["relative_position/offsets"]
        expected = arrays[f"relative_position/bidirectional_{bidirectional}"]
    buckets = compiled(relative_position_bucket)(offsets, bidirectional)
    np.testing.assert_array_equal(buckets, expected)


def test_the_bias_of_a_distance_is_its_bucket_in_the_table():
    layer = RelativePositionBias(num_heads=3, bidirectional=True)
    layer.build()
    table = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    put(layer.table, table)
    bias = compiled(layer)(np.arange(4), np.arange(6)).numpy()
    assert bias.shape == (1, 3, 4, 6)
    np.testing.assert_array_equal(bias[0, :, 2, 2], table[0])
    np.testing.assert_array_equal(bias[0, :, 3, 1], table[2])
    np.testing.assert_array_equal(bias[0, :, 1, 4], table[16 + 3])


def test_in_a_bfloat16_model_buckets_and_bias_are_float32s():
    """The logarithm of distances 8 to 127 falls into other buckets where it is bfloat16."""
    distances = np.arange(128, dtype=np.int32)
    biases = []
    for dtype in ("float32", "mixed_bfloat16"):
        layer = RelativePositionBias(num_heads=1, bidirectional=True, dtype=dtype)
        layer.build()
        put(layer.table, 1.0 + np.arange(32, dtype=np.float32)[:, None] / 1024)
        biases.append(compiled(layer)(np.int32([0]), distances).numpy())
    assert biases[1].dtype == np.float32
    np.testing.assert_array_equal(biases[0], biases[1])
    assert len(np.unique(biases[1])) == 16
