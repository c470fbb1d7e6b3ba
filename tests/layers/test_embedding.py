import numpy as np
import pytest
import tensorflow as tf

from switch_tf.layers.embedding import Embedding, Softmax
from switch_tf.mesh import to_numpy
from tests.helpers import compiled, error, place, put, using

LAYOUTS = [None, ("batch:2,model:2", "batch:batch,vocab:model")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_are_rows_and_tied_logits_are_scaled_products(layout):
    ids_BL = np.int32([[0, 5, 11], [7, 7, 1]])
    with using(layout):
        layer = Embedding(12, 16)
        layer.build()
        table_VM = to_numpy(layer.table)
        x_BLM = compiled(layer)(place(ids_BL, ["batch"]))
        np.testing.assert_array_equal(to_numpy(x_BLM), table_VM[ids_BL])
        logits_BLV = to_numpy(compiled(layer.logits)(x_BLM))
    assert error(logits_BLV, table_VM[ids_BL] @ table_VM.T / 4.0) < 1e-5


def test_untied_logits_are_products():
    layer = Softmax(12)
    layer.build((None, None, 4))
    x_BLM = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    assert error(compiled(layer)(x_BLM), x_BLM @ layer.kernel.numpy()) < 1e-5


def tied_logits(table_VM, x_BLM, **kwargs):
    layer = Embedding(*table_VM.shape, dtype="mixed_bfloat16", **kwargs)
    layer.build()
    put(layer.table, table_VM)
    return compiled(layer.logits)(tf.cast(x_BLM, tf.bfloat16))


def untied_logits(table_VM, x_BLM, **kwargs):
    layer = Softmax(len(table_VM), dtype="mixed_bfloat16", **kwargs)
    layer.build(x_BLM.shape)
    put(layer.kernel, table_VM.T)
    return compiled(layer)(tf.cast(x_BLM, tf.bfloat16))


@pytest.mark.parametrize("logits_of", [tied_logits, untied_logits])
def test_in_bfloat16_logits_are_a_float32_product_unless_asked_otherwise(logits_of):
    """Rounded, several pieces of a large vocabulary share the largest logit, and argmax changes."""
    generator = np.random.default_rng(0)
    table_VM = generator.normal(size=(4096, 64)).astype(np.float32)
    x_BLM = generator.normal(size=(1, 256, 64)).astype(np.float32)
    exact_BLV = np.asarray(tf.cast(x_BLM, tf.bfloat16), np.float64) @ table_VM.T
    ties = {}
    for exact in (True, False):
        logits_BLV = logits_of(table_VM, x_BLM, float32_logits=exact)
        assert logits_BLV.dtype == (tf.float32 if exact else tf.bfloat16)
        logits_BLV = logits_BLV.numpy().astype(np.float64)
        largest_BL1 = logits_BLV.max(axis=-1, keepdims=True)
        ties[exact] = ((logits_BLV == largest_BL1).sum(axis=-1) > 1).mean()
        same = (logits_BLV.argmax(-1) == exact_BLV.argmax(-1)).mean()
        assert (same == 1.0) == exact
    assert ties[True] == 0.0 and ties[False] > 0.01


@pytest.mark.parametrize("layout", [None, ("batch:1", "batch:batch"), ("batch:2", "batch:batch")])
def test_the_gradient_of_a_piece_that_comes_often_grows_beyond_256(layout):
    ids_BL = np.full((2, 10_000), 3, np.int32)
    with using(layout):
        layer = Embedding(12, 16, dtype="mixed_bfloat16")
        layer.build()

        @compiled
        def run(ids_BL):
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(tf.cast(layer(ids_BL), tf.float32))
            return tf.convert_to_tensor(tape.gradient(total, layer.table.value))

        gradient_VM = to_numpy(run(place(ids_BL, ["batch"])))
    np.testing.assert_array_equal(gradient_VM[3], np.full(16, 20_000.0))
