import keras
import numpy as np
import tensorflow as tf

from switch_tf.layers.norm import RMSNorm
from tests.helpers import compiled, put


def test_rows_are_divided_by_their_root_mean_square_and_scaled():
    layer = RMSNorm()
    layer.build((2, 3, 4))
    scale = np.float32([1.0, 2.0, 3.0, 4.0])
    put(layer.scale, scale)
    x_BLM = 5.0 + np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    expected = x_BLM / np.sqrt((x_BLM**2).mean(-1, keepdims=True)) * scale
    np.testing.assert_allclose(compiled(layer)(x_BLM), expected, rtol=1e-5)


def test_a_zero_row_stays_zero():
    layer = RMSNorm()
    assert (layer(np.zeros([1, 1, 4], np.float32)).numpy() == 0.0).all()


def test_the_mean_square_of_bfloat16_is_taken_in_float32():
    layer = RMSNorm(dtype=keras.DTypePolicy("mixed_bfloat16"))
    # In bfloat16 a sum of 4,096 ones stops at 256.
    y_BLM = compiled(layer)(tf.ones([1, 1, 4096], tf.bfloat16))
    assert y_BLM.dtype == tf.bfloat16
    assert (tf.cast(y_BLM, tf.float32).numpy() == 1.0).all()
