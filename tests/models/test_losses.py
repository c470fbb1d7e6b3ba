import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from switch_tf.mesh import to_numpy
from switch_tf.models.losses import cross_entropy, per_sequence
from tests.helpers import compiled, place, using

Z_LOSS = 0.1
LAYOUTS = {
    "plain": None,
    "data": ("batch:4", "batch:batch"),
    "vocabulary too": ("batch:2,model:4", "batch:batch,vocab:model"),
}


def example(seed=0):
    """Logits [4, 6, 16], targets and weights [4, 6]; every third token is padding."""
    generator = np.random.default_rng(seed)
    logits_BLV = 4.0 * generator.standard_normal((4, 6, 16)).astype(np.float32)
    targets_BL = generator.integers(0, 16, (4, 6)).astype(np.int32)
    targets_BL[0] = logits_BLV[0].argmax(-1)
    weights_BL = (np.arange(24) % 3 > 0).astype(np.float32).reshape(4, 6)
    return logits_BLV, targets_BL, weights_BL


def by_hand(logits_BLV, targets_BL, weights_BL):
    log_z_BL = special.logsumexp(logits_BLV.astype(np.float64), axis=-1)
    chosen_BL = np.take_along_axis(logits_BLV, targets_BL[..., None], -1)[..., 0]
    correct_BL = logits_BLV.argmax(-1) == targets_BL
    per_token = [log_z_BL - chosen_BL, Z_LOSS * log_z_BL**2, correct_BL, np.ones_like(weights_BL)]
    sums = [(value_BL * weights_BL).sum() for value_BL in per_token]
    return [*sums, (sums[0] + sums[1]) / sums[3]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sums_over_tokens_are_those_by_hand(layout):
    arrays = example()
    with using(LAYOUTS[layout]):
        axes = [("batch", "length", "vocab"), ("batch", "length"), ("batch", "length")]
        placed = [place(array, names) for array, names in zip(arrays, axes, strict=True)]
        # Stacked, as the steps return them.
        sums = compiled(lambda *given: tf.stack(cross_entropy(*given, z_loss_coef=Z_LOSS)))
        found = to_numpy(sums(*placed))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(*arrays), rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_equal_logits_the_first_is_the_guess(layout):
    logits_BLV = np.zeros((4, 1, 16), np.float32)
    logits_BLV[:, :, [5, 9]] = 1.0
    targets_BL = np.int32([[5], [9], [0], [5]])
    with using(LAYOUTS[layout]):
        placed = [
            place(logits_BLV, ("batch", "length", "vocab")),
            place(targets_BL, ("batch", "length")),
            place(np.ones((4, 1), np.float32), ("batch", "length")),
        ]
        found = to_numpy(compiled(lambda *given: tf.stack(cross_entropy(*given)))(*placed))
    assert found[2] == 2.0


def test_without_a_coefficient_there_is_no_z_loss():
    arrays = example()
    with_it = [float(value) for value in cross_entropy(*arrays, Z_LOSS)]
    without = [float(value) for value in cross_entropy(*arrays)]
    assert with_it[1] > 0.0 and without[1] == 0.0
    assert with_it[0::2][:2] == without[0::2][:2] and with_it[3] == without[3]
    assert with_it[4] > without[4]


def test_a_token_of_weight_zero_counts_nowhere():
    logits_BLV, targets_BL, weights_BL = example()
    padding_BL = weights_BL == 0
    other_BLV, others_BL = logits_BLV.copy(), targets_BL.copy()
    other_BLV[padding_BL] *= -3.0
    others_BL[padding_BL] = 0
    before = cross_entropy(logits_BLV, targets_BL, weights_BL, Z_LOSS)
    after = cross_entropy(other_BLV, others_BL, weights_BL, Z_LOSS)
    assert [float(value) for value in before] == [float(value) for value in after]


def test_nothing_but_padding_gives_zeros():
    logits_BLV, targets_BL, weights_BL = example()
    sums = cross_entropy(logits_BLV, targets_BL, 0 * weights_BL, Z_LOSS)
    assert [float(value) for value in sums] == [0.0] * 5


def test_the_z_loss_pulls_every_logit_toward_zero():
    logits = tf.Variable(np.full([1, 1, 4], 5.0, np.float32))
    with tf.GradientTape() as tape:
        _, z_loss, _, _, _ = cross_entropy(logits, np.array([[2]]), np.ones([1, 1]), Z_LOSS)
    # d/dx of c log(Z)^2 is 2 c log(Z) p, with p = 1/4.
    expected = 2 * Z_LOSS * (5.0 + np.log(4.0)) / 4
    np.testing.assert_allclose(tape.gradient(z_loss, logits), np.full([1, 1, 4], expected), 1e-5)


def test_integer_weights_are_taken_as_numbers():
    logits_BLV, targets_BL, weights_BL = example()
    floats = cross_entropy(logits_BLV, targets_BL, weights_BL)
    integers = cross_entropy(logits_BLV, targets_BL, weights_BL.astype(np.int32))
    assert [float(value) for value in floats] == [float(value) for value in integers]


def test_per_sequence_each_sequence_weighs_one_packed_or_not():
    weights_BL = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6], np.float32)
    expected = np.array([[0.25] * 4 + [0.0] * 2, [1.0] + [0.0] * 5, [0.0] * 6])
    np.testing.assert_allclose(per_sequence(weights_BL), expected)
    packed = np.array([[1, 1, 1, 1, 2, 0]], np.float32)
    weights = (packed > 0).astype(np.float32)
    np.testing.assert_allclose(per_sequence(weights, packed), [[0.25] * 4 + [1.0, 0.0]])


def test_loss_weights_change_the_loss_and_no_sum():
    arrays = example()
    loss_weights_BL = per_sequence(arrays[2]).numpy() * np.array([[1.0], [0.0], [0.0], [0.0]])
    plain = [float(value) for value in cross_entropy(*arrays, Z_LOSS)]
    weighed = [float(value) for value in cross_entropy(*arrays, Z_LOSS, loss_weights_BL)]
    assert weighed[:4] == plain[:4]
    first = by_hand(*(array[:1] for array in arrays))
    assert weighed[4] == pytest.approx(first[4], rel=1e-5)
