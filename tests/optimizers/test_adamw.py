import keras
import numpy as np
import pytest
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.optimizers.adamw import AdamW
from switch_tf.optimizers.schedules import constant, linear_decay
from tests.optimizers.test_adafactor import AXES, MESHES, assert_close, run, updated, use, variable

SHAPES = {"matrix": (8, 16), "experts": (8, 8, 4), "vector": (8,), "heads": (8, 4, 3)}
STEPS = 5


@pytest.fixture(scope="module")
def arrays():
    """Name -> a weight, and its gradients at each step, of sizes far apart."""
    generator = np.random.default_rng(0)

    def draw(shape):
        scale = 10.0 ** generator.integers(-3, 2)
        return (scale * generator.normal(size=shape)).astype(np.float32)

    return {name: (draw(s), [draw(s) for _ in range(STEPS)]) for name, s in SHAPES.items()}


def by_formula(value, gradients, rates, beta1, beta2, epsilon, weight_decay):
    """The weight and its moments, in float64 as the paper's Algorithm 2 has them."""
    w = value.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    decay = weight_decay if w.ndim > 1 else 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = gradient.astype(np.float64)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        w = w - rate * (m_hat / (np.sqrt(v_hat) + epsilon) + decay * w)
    return w, {"m": m, "v": v}


SETTINGS = [
    {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01},
    {"beta1": 0.0, "beta2": 0.95, "epsilon": 1e-2, "weight_decay": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["defaults", "others"])
@pytest.mark.parametrize("mesh_name", MESHES)
def test_weights_and_slots_are_those_of_the_formula_on_every_mesh(arrays, mesh_name, settings):
    schedule = linear_decay(peak=0.1, warmup_steps=0, total_steps=2 * STEPS)
    rates = [0.1 * (1 - t / (2 * STEPS)) for t in range(STEPS)]
    with use(mesh_name) as mesh:
        weights = [variable(mesh, name, arrays[name][0], AXES[name]) for name in SHAPES]
        optimizer = AdamW(schedule, **settings)
        optimizer.build(weights)
        run(mesh, optimizer, weights, list(zip(*(g for _, g in arrays.values()), strict=True)))
        for weight in weights:
            value, moments = by_formula(*arrays[weight.name], rates, **settings)
            assert_close(weight, value, weight.name)
            slots = optimizer.slots_of(weight)
            assert slots.keys() == moments.keys()
            for kind, slot in slots.items():
                assert_close(slot, moments[kind], f"{weight.name} {kind}")


def test_the_defaults_are_those_of_the_formula_above():
    value, gradients = np.ones([2, 3], np.float32), [np.full([2, 3], 0.5, np.float32)] * 2
    expected, _ = by_formula(value, gradients, [0.1] * 2, **SETTINGS[0])
    np.testing.assert_allclose(updated(AdamW(constant(0.1)), value, gradients), expected, rtol=1e-6)


def test_updates_are_those_of_keras(arrays):
    """Whose float32 powers of beta are off in the first steps, and whose epsilon is another."""
    value, gradients = arrays["matrix"]
    ours = updated(AdamW(constant(0.1), weight_decay=0.5, epsilon=0.0), value, gradients)
    theirs = keras.Variable(value)
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5, epsilon=0.0)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [theirs])
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(ours - value).max() > 0.1


def test_weights_decay_by_the_rate_and_scales_of_norms_do_not():
    kernel, scale = (
        keras.Variable(np.full(shape, 2.0, np.float32), name=name)
        for name, shape in (("kernel", [2, 3]), ("scale", [3]))
    )
    optimizer = AdamW(constant(0.5), weight_decay=0.25)
    optimizer.build([kernel, scale])
    zeros = [np.zeros(v.shape, np.float32) for v in (kernel, scale)]
    update = tf.function(lambda step: optimizer.apply(zeros, [kernel, scale], step))
    update(tf.constant(0))
    np.testing.assert_allclose(kernel, np.full([2, 3], 2.0 * (1 - 0.5 * 0.25)))
    np.testing.assert_array_equal(scale, np.full([3], 2.0))


def test_slots_lie_where_their_variables_lie(arrays):
    with use("experts") as mesh:
        weight = variable(mesh, "experts", arrays["experts"][0], AXES["experts"])
        optimizer = AdamW(constant(0.1))
        optimizer.build([weight])
        for slot in optimizer.slots_of(weight).values():
            assert slot.layout == weight.value.layout
            assert slot.dtype == tf.float32
            assert not mesh_lib.to_numpy(slot).any()


@pytest.mark.parametrize("name, value", [("beta1", 1.0), ("beta2", -0.1)])
def test_a_moving_average_that_cannot_be_is_named(name, value):
    with pytest.raises(UserError, match=f"^AdamW.{name}={value}: give a number of at least 0"):
        AdamW(constant(0.1), **{name: value})
