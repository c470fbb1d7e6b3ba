"""What holds for every optimizer, and that a new one is a few lines."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.adamw import AdamW
from switch_tf.optimizers.base import Optimizer
from switch_tf.optimizers.schedules import constant
from tests.optimizers.test_adafactor import AXES, place, run, updated, use, variable

every_optimizer = pytest.mark.parametrize("optimizer_class", [Adafactor, AdamW])


class GradientDescent(Optimizer):
    """The least that an optimizer needs to be."""

    def slot_axes(self, shape, groups):
        return {}

    def updates(self, gradients, variables, step):
        return [self.learning_rate(step) * gradient for gradient in gradients]


@pytest.mark.parametrize("threshold, factor", [(None, 1.0), (2.5, 0.5)])
@pytest.mark.parametrize("mesh_name", ["one", "mixed"])
def test_a_new_optimizer_says_what_it_keeps_and_what_it_subtracts(mesh_name, threshold, factor):
    with use(mesh_name) as mesh:
        optimizer = GradientDescent(constant(0.1), global_norm_clip_threshold=threshold)
        gradient = np.diag([3.0, 4.0, 0.0, 0.0])
        found = updated(optimizer, np.ones([4, 4]), [gradient], mesh)
    np.testing.assert_allclose(found, 1 - 0.1 * factor * gradient, rtol=1e-6)


# Of the first step: what is seen of the squares in the second moments.
@pytest.mark.parametrize(
    "optimizer_class, settings, share",
    [(Adafactor, {}, 1.0), (AdamW, {"beta2": 0.75}, 0.25)],
    ids=["Adafactor", "AdamW"],
)
@pytest.mark.parametrize("threshold, factor", [(None, 1.0), (20.0, 1.0), (6.5, 0.5)])
@pytest.mark.parametrize("mesh_name", ["one", "mixed"])
def test_gradients_are_clipped_by_the_norm_of_all_together(
    mesh_name, threshold, factor, optimizer_class, settings, share
):
    """Of lengths 5 and 12, so 13 together."""
    gradients = [np.diag([3.0, 4.0, 0.0, 0.0]).astype(np.float32), np.float32([12.0, 0, 0, 0])]
    with use(mesh_name) as mesh:
        matrix = variable(mesh, "matrix", np.ones([4, 4], np.float32), AXES["matrix"])
        vector = variable(mesh, "vector", np.ones([4], np.float32), AXES["vector"])
        settings = settings | {"global_norm_clip_threshold": threshold}
        optimizer = optimizer_class(constant(0.1), **settings)
        optimizer.build([matrix, vector])
        run(mesh, optimizer, [matrix, vector], [gradients])
        for weight, gradient in zip((matrix, vector), gradients, strict=True):
            seen = mesh_lib.to_numpy(optimizer.slots_of(weight)["v"])
            expected = share * (factor * gradient) ** 2
            np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-20)


@pytest.mark.parametrize("threshold", [None, 6.5])
@pytest.mark.parametrize("mesh_name", ["one", "experts", "mixed"])
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(Adafactor, min_dim_size_to_factor=4),
        functools.partial(Adafactor, clipping_threshold=0.01, beta1=0.5),
        functools.partial(Adafactor, multiply_by_parameter_scale=False, min_dim_size_to_factor=4),
        AdamW,
        GradientDescent,
    ],
)
def test_an_update_returns_sums_of_squares_of_whole_variables(make, mesh_name, threshold):
    """Of gradients before clipping, of what is subtracted, and of weights before."""
    names, random = ("experts", "heads", "matrix", "vector"), np.random.default_rng(0)
    shapes = {"experts": (8, 8, 16), "heads": (8, 8, 4), "matrix": (8, 16), "vector": (16,)}
    arrays = [random.normal(size=shapes[name]).astype(np.float32) for name in names]
    gradients = [random.normal(size=shapes[name]).astype(np.float32) for name in names]
    with use(mesh_name) as mesh:
        weights = [variable(mesh, n, a, AXES[n]) for n, a in zip(names, arrays, strict=True)]
        optimizer = make(constant(0.1), global_norm_clip_threshold=threshold)
        optimizer.build(weights)
        given = [place(mesh, g, AXES[n]) for n, g in zip(names, gradients, strict=True)]
        squares = tf.function(lambda given, step: optimizer.apply(given, weights, step))(
            given, place(mesh, np.int64(0))
        )
        squares = mesh_lib.to_numpy(squares) if mesh else squares.numpy()
        after = [mesh_lib.to_numpy(weight) for weight in weights]
    updates = [before - now for before, now in zip(arrays, after, strict=True)]
    expected = [[np.square(x).sum() for x in kind] for kind in (gradients, updates, arrays)]
    np.testing.assert_allclose(squares, expected, rtol=1e-4)


@every_optimizer
def test_a_sparse_gradient_counts_as_its_dense_one(optimizer_class):
    value = np.arange(6, dtype=np.float32).reshape(3, 2)
    table = keras.Variable(value, name="embedding")
    optimizer = optimizer_class(constant(0.1))
    optimizer.build([table])
    rows = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]), tf.constant([3, 2]))
    tf.function(lambda: optimizer.apply([rows], [table], tf.constant(0)))()
    dense = updated(optimizer_class(constant(0.1)), value, [[[0, 0], [2, 2], [0, 0]]])
    np.testing.assert_array_equal(table.numpy(), dense)


@every_optimizer
def test_a_gradient_laid_out_otherwise_leaves_the_weights_layout_alone(optimizer_class):
    with use("mixed") as mesh:
        value = np.arange(64, dtype=np.float32).reshape(8, 8)
        weight = variable(mesh, "matrix", value, AXES["matrix"])
        optimizer = optimizer_class(constant(0.1))
        optimizer.build([weight])
        gradient = mesh.pack(value - 30, [None, "batch"])
        tf.function(lambda g, step: optimizer.apply([g], [weight], step))(
            gradient, mesh.pack(np.array(0), ())
        )
        for held in (weight.value, optimizer.slots_of(weight)["v"]):
            specs = dtensor.fetch_layout(held.read_value()).sharding_specs
            assert specs == ["batch", "model"]
        whole = updated(optimizer_class(constant(0.1)), value, [value - 30], mesh)
        np.testing.assert_allclose(mesh_lib.to_numpy(weight), whole, rtol=1e-6)


@every_optimizer
def test_mistakes_are_named(optimizer_class):
    name = optimizer_class.__name__
    with pytest.raises(UserError, match=f"^{name}.learning_rate=0.01: give a schedule: @"):
        optimizer_class(0.01)
    with pytest.raises(UserError, match=f"^{name}.learning_rate is missing: give @"):
        optimizer_class()
    weight, other = (keras.Variable(np.ones([2], np.float32), name=name) for name in "ab")
    optimizer = optimizer_class(constant(0.01))
    optimizer.build([weight])
    with pytest.raises(ValueError, match=f"^{name}.build was called before"):
        optimizer.build([weight])
    with pytest.raises(ValueError, match="'a' has no gradient"):
        optimizer.apply([None], [weight], 0)
    with pytest.raises(ValueError, match="'b' was not given to build"):
        optimizer.apply([tf.ones([2])], [other], 0)
    with pytest.raises(ValueError, match="two variables have the path 'a'"):
        optimizer_class(constant(0.01)).build([weight, weight])
