import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.layers.embedding import Embedding
from switch_tf.layers.initializers import Constant, GlorotUniform, Normal, TruncatedNormal, uniform
from switch_tf.layers.relative_position import RelativePositionBias

KINDS = [TruncatedNormal(0.5), Normal(0.5), GlorotUniform(3, 4), Constant(2.0)]
SHAPE = (64, 128, 4)
WHOLE = tuple(slice(0, n) for n in SHAPE)


@st.composite
def parts(draw):
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    bounds = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
    return tuple(shape), tuple(slice(*pair) for pair in bounds)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(parts(), st.integers(0, 2**40), st.sampled_from(KINDS))
def test_a_part_equals_that_part_of_the_whole(case, seed, initializer):
    shape, part = case
    whole = initializer(seed, "name", shape, tuple(slice(0, n) for n in shape))
    values = initializer(seed, "name", shape, part)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, whole[part])


def test_values_have_the_deviation_of_a_normal_cut_at_two_deviations():
    values = TruncatedNormal(0.3)(0, "weight", SHAPE, WHOLE)
    # 0.8796 is the deviation of a standard normal cut at ±2.
    assert values.std() == pytest.approx(0.3 * 0.8796, rel=0.01)
    assert abs(values.mean()) < 0.005
    assert np.abs(values).max() <= 0.6
    assert np.abs(values).max() > 0.59


def test_uniform_numbers_are_uniform_and_independent_along_each_axis():
    values = uniform(0, "weight", SHAPE, WHOLE)
    assert 0.0 < values.min() and values.max() < 1.0
    counts, _ = np.histogram(values, bins=16, range=(0, 1))
    np.testing.assert_allclose(counts, values.size / 16, rtol=0.1)
    centred = values - 0.5
    for axis in range(3):
        neighbours = centred * np.roll(centred, 1, axis)
        assert abs(neighbours.mean()) * 12 < 0.03


@pytest.mark.parametrize("seed, name", [(1, "weight"), (0, "other"), (10, "weight")])
def test_other_seeds_and_names_give_other_values(seed, name):
    one = uniform(0, "weight", SHAPE, WHOLE)
    other = uniform(seed, name, SHAPE, WHOLE)
    assert (one == other).mean() < 1e-3
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


def test_fan_in_divides_the_scale():
    assert TruncatedNormal.fan_in(0.1, 40).stddev == pytest.approx(0.05)


def test_the_embedding_is_normal_as_in_all_of_t5():
    layer = Embedding(4096, 16)
    layer.build()
    values = layer.table.numpy()
    assert values.std() == pytest.approx(1.0, rel=0.01) and abs(values.mean()) < 0.02
    # None is drawn again beyond two deviations.
    assert (np.abs(values) > 2).mean() == pytest.approx(0.0455, rel=0.1)


def test_the_relative_bias_is_glorot_uniform_as_in_mesh_tensorflow_and_t5x():
    layer = RelativePositionBias(num_heads=128, bidirectional=True)
    layer.build()
    values, limit = layer.table.numpy(), np.sqrt(6 / (32 + 128))
    assert np.abs(values).max() <= limit
    assert np.abs(values).max() > 0.99 * limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
