"""Products of bfloat16 sum in float32, whatever the processor."""

import ast
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import switch_tf.layers
from switch_tf import runtime
from switch_tf.layers.products import as_on_accelerators, product
from tests.helpers import compiled

FOLDER = Path(switch_tf.layers.__file__).parent


@pytest.fixture(params=[True, False], ids=["no units", "units"])
def lacks_bfloat16(request, monkeypatch):
    if runtime.lacks_bfloat16() and not request.param:
        pytest.skip("this processor has no products of bfloat16 whose sums are float32")
    monkeypatch.setattr(runtime, "lacks_bfloat16", lambda: request.param)
    return request.param


def rounded(x):
    return tf.cast(tf.cast(x, tf.float32), tf.bfloat16)


def test_sums_are_not_rounded_on_the_way(lacks_bfloat16):
    generator = np.random.default_rng(0)
    a, b = (rounded(generator.normal(size=(512, 512)) + 0.5) for _ in range(2))
    exact = tf.matmul(tf.cast(a, tf.float64), tf.cast(b, tf.float64)).numpy()
    found = compiled(lambda a, b: product("lm,mf->lf", a, b))(a, b)
    assert found.dtype == tf.bfloat16
    # A rounding to eight bits is off by at most 2^-9, and by 2^-8 if it cuts bits off.
    errors = np.abs(tf.cast(found, tf.float64).numpy() - exact) / np.abs(exact).mean()
    assert errors.max() < 2**-7


def test_gradients_have_the_dtype_of_their_operands(lacks_bfloat16):
    a, b = rounded(np.ones((4, 300))), rounded(np.full((300, 2), 1.5))
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        loss = tf.reduce_sum(tf.cast(product("lm,mf->lf", a, b), tf.float32))
    gradients = tape.gradient(loss, [a, b])
    assert [g.dtype for g in gradients] == [tf.bfloat16] * 2
    np.testing.assert_array_equal(tf.cast(gradients[0], tf.float32), np.full((4, 300), 3.0))
    np.testing.assert_array_equal(tf.cast(gradients[1], tf.float32), np.full((300, 2), 4.0))


def dtype_of_the_operation():
    a = rounded(np.ones((4, 4)))
    traced = compiled(lambda: product("lm,mf->lf", a, a)).get_concrete_function()
    return {op.type: op.outputs[0].dtype for op in traced.graph.get_operations()}["Einsum"]


def test_what_is_lowered_for_an_accelerator_computes_in_bfloat16(monkeypatch):
    monkeypatch.setattr(runtime, "lacks_bfloat16", lambda: True)
    assert dtype_of_the_operation() == tf.float32
    with as_on_accelerators():
        assert dtype_of_the_operation() == tf.bfloat16
    assert dtype_of_the_operation() == tf.float32


@pytest.mark.parametrize("path", FOLDER.glob("*.py"), ids=lambda path: path.stem)
def test_no_layer_multiplies_matrices_otherwise(path):
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    found = calls & {"tf.einsum", "tf.matmul", "tf.linalg.matmul", "tf.tensordot"}
    assert found == ({"tf.einsum"} if path.stem == "products" else set())
