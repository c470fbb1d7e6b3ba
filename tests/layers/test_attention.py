import numpy as np
import pytest
import tensorflow as tf

from switch_tf.layers.attention import Attention, Cache, mask_bias
from switch_tf.layers.base import UncastTensor
from switch_tf.layers.context import step_seed
from switch_tf.mesh import to_numpy
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant
from tests.helpers import compiled, error, place, put, using

BATCH, LENGTH, MEMORY, D_MODEL = 2, 5, 7, 6


@pytest.fixture(scope="module")
def attention():
    layer = Attention(num_heads=2, d_kv=3, name="attention")
    layer.build((None, None, D_MODEL))
    return layer


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(layer, x_BLM, memory_BTM, bias_BHLT):
    """The formula in NumPy, head by head."""
    y_BLM = np.zeros_like(x_BLM)
    for head in range(layer.num_heads):
        query, key, value = (
            source @ kernel.numpy()[:, head]
            for source, kernel in (
                (x_BLM, layer.query),
                (memory_BTM, layer.key),
                (memory_BTM, layer.value),
            )
        )
        exponents = np.exp(query @ key.transpose(0, 2, 1) + bias_BHLT[:, head])
        weights = exponents / exponents.sum(-1, keepdims=True)
        y_BLM += weights @ value @ layer.output_kernel.numpy()[head]
    return y_BLM


def test_attention_is_the_formula(attention):
    x_BLM, memory_BTM = normal(BATCH, LENGTH, D_MODEL), normal(BATCH, MEMORY, D_MODEL, seed=1)
    bias = normal(BATCH, 2, LENGTH, MEMORY, seed=2)
    y_BLM = compiled(attention)(x_BLM, memory_BTM, bias=bias)
    assert error(y_BLM, reference(attention, x_BLM, memory_BTM, bias)) < 1e-5


def test_masked_positions_do_not_matter_and_a_row_without_any_is_finite(attention):
    x_BLM = normal(BATCH, LENGTH, D_MODEL)
    allowed = np.ones([BATCH, 1, 1, LENGTH], bool)
    allowed[0, ..., 3:] = False
    allowed[1] = False
    bias = mask_bias(tf.constant(allowed))
    y_BLM = compiled(attention)(x_BLM, bias=bias).numpy()
    other_BLM = x_BLM.copy()
    other_BLM[0, 3:] += 1.0
    z_BLM = compiled(attention)(other_BLM, bias=bias).numpy()
    np.testing.assert_array_equal(y_BLM[0, :3], z_BLM[0, :3])
    assert np.isfinite(y_BLM).all()


@pytest.mark.parametrize("layout", [None, ("batch:2,model:2", "batch:batch,heads:model")])
def test_cached_positions_one_by_one_equal_the_whole_sequence(layout):
    causal = np.tril(np.ones([LENGTH, LENGTH], bool))
    x_BLM = normal(BATCH, LENGTH, D_MODEL)
    with using(layout):
        layer = Attention(num_heads=2, d_kv=3, name="attention")
        layer.build((None, None, D_MODEL))

        @compiled
        def step(x_B1M, bias, key_BHTK, value_BHTK, position):
            cache = Cache(key_BHTK, value_BHTK, position)
            y_B1M = layer(x_B1M, bias=bias, cache=cache)
            return y_B1M, cache.key_BHTK, cache.value_BHTK

        bias = np.where(causal, 0.0, -1e9).astype(np.float32)
        whole = compiled(layer)(place(x_BLM, ["batch"]), bias=place(bias))
        axes = ("batch", "heads")
        key = value = place(np.zeros([BATCH, 2, LENGTH, 3], np.float32), axes)
        outputs = []
        for i in range(LENGTH):
            x_B1M, row = place(x_BLM[:, i : i + 1], ["batch"]), place(bias[i : i + 1])
            y_B1M, key, value = step(x_B1M, row, key, value, place(np.int32(i)))
            outputs.append(to_numpy(y_B1M))
        assert error(np.concatenate(outputs, axis=1), to_numpy(whole)) < 1e-5


def test_the_cache_of_attention_to_the_encoder_is_filled_once(attention):
    x_B1M, memory_BTM = normal(BATCH, 1, D_MODEL), normal(BATCH, MEMORY, D_MODEL, seed=1)
    cache = Cache()
    first = attention(x_B1M, memory_BTM, cache=cache)
    again = attention(x_B1M, np.zeros_like(memory_BTM), cache=cache)
    np.testing.assert_array_equal(first, again)


def test_flops_count_projections_and_the_two_products(attention):
    # Four projections of 6 x 6 at 5 positions (two at 7), logits and weighted values.
    expected = 2 * 6 * 6 * (2 * LENGTH + 2 * MEMORY) + 2 * 2 * LENGTH * MEMORY * 6
    assert attention.flops(D_MODEL, LENGTH, MEMORY) == expected


def test_in_bfloat16_logits_and_softmax_are_float32_unless_asked_otherwise():
    """Logits of a deviation of 9, where rounding them moves weights by percents."""
    query_BLM, memory_BTM = normal(4, 16, 64), normal(4, 32, 64, seed=1)
    errors = {}
    for exact in (True, False):
        layer = Attention(1, 64, float32_logits=exact, name="attention", dtype="mixed_bfloat16")
        layer.build((None, None, 64))
        identity = np.eye(64, dtype=np.float32)
        put(layer.query, 9.0 / 8.0 * identity[:, None])
        for kernel in (layer.key, layer.value):
            put(kernel, identity[:, None])
        put(layer.output_kernel, identity[None])
        x, memory = (tf.cast(v, tf.bfloat16) for v in (query_BLM, memory_BTM))
        y_BLM = compiled(layer)(x, memory).numpy().astype(np.float64)
        query, key = (np.asarray(v, np.float64) for v in (x, memory))
        query = np.asarray(tf.cast(query * 9.0 / 8.0, tf.bfloat16), np.float64)
        logits = query @ key.transpose(0, 2, 1)
        assert 7 < logits.std() < 11
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        exact_BLM = weights / weights.sum(-1, keepdims=True) @ key
        errors[exact] = np.abs(y_BLM - exact_BLM).mean() / np.abs(exact_BLM).mean()
    assert errors[True] < 0.003
    assert errors[False] > 3 * errors[True]


def test_a_bias_stays_float32_on_its_way_in():
    layer = Attention(1, 8, name="attention", dtype="mixed_bfloat16")
    layer.build((None, None, 8))
    x_BLM = normal(1, 4, 8)
    # Too small a difference for bfloat16, beside a large common part.
    bias = np.zeros([1, 1, 4, 4], np.float32) + np.float32([300.0, 300.5, 300.0, 300.0])

    @compiled
    def run(bias):
        return layer(x_BLM, bias=UncastTensor(bias))

    moved, same = run(bias), run(0 * bias)
    assert (moved.numpy() != same.numpy()).any()


def test_dropout_draws_one_mask_a_head_for_all_queries():
    """As Mesh-TensorFlow, T5X and Flaxformer. Where all weights are alike, the outputs are, too."""
    layer = Attention(8, 4, dropout_rate=0.5, name="attention")
    layer.build((None, None, 6))
    put(layer.query, np.zeros((6, 8, 4), np.float32))
    x_BLM = normal(3, 16, 6)
    with step_seed(tf.constant([0, 1])):
        y_BLM = layer(x_BLM, training=True).numpy()
    np.testing.assert_allclose(y_BLM, np.repeat(y_BLM[:, :1], 16, axis=1), rtol=1e-5, atol=1e-6)
    assert np.abs(y_BLM - layer(x_BLM).numpy()).max() > 1e-3
    assert np.abs(y_BLM[0] - y_BLM[1]).max() > 1e-3


def test_heads_and_their_width_are_one_axis_for_the_optimizer():
    """[d_model, heads, d_kv] as Mesh-TensorFlow's [d_model, heads · d_kv], which is factored."""
    layer = Attention(num_heads=4, d_kv=64, name="attention")
    layer.build((None, None, 192))
    optimizer = Adafactor(constant(0.1))
    optimizer.build(layer.trainable_variables)
    shapes = {name: tuple(slot.shape) for name, slot in optimizer.slots.items()}
    for kernel, kept in (("query", {"vr": (192,), "vc": (4, 64)}), ("output", None)):
        # The largest is gone from vr, the second from vc.
        kept = kept or {"vr": (192,), "vc": (4, 64)}
        found = {kind: shapes.get(f"attention/{kernel}/{kind}") for kind in ("v", "vr", "vc")}
        assert found == {"v": None, **kept}
