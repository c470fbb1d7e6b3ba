import numpy as np
import pytest

from switch_tf.layers.embedding import Embedding, Softmax
from switch_tf.mesh import to_numpy
from tests.helpers import compiled, error, place, using

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
