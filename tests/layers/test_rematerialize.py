import functools

import numpy as np
import pytest
import tensorflow as tf

from switch_tf.layers.context import collect, dropless, step_seed, watch
from switch_tf.layers.dropout import Dropout
from switch_tf.layers.rematerialize import rematerialize
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.mesh import to_numpy
from tests.helpers import compiled, error, place_features, put, random_features, tiny_model, using

ARGMAX = functools.partial(SwitchRouter, policy="argmax")
TABLE = "model/embedding/table"
LAYOUTS = {
    "no mesh": None,
    "experts with data": ("batch:8", "batch:batch,experts:batch"),
    "with a model dimension": (
        "batch:2,model:4",
        "batch:batch,experts:batch,heads:model,d_ff:model,vocab:model",
    ),
}


@functools.cache
def gradients_of(layout, rematerialize, dtype="float32", coefficient=1.0, move=0.0):
    """Loss, gradients, layers that reported and layers that were watched.

    Args:
      move: how far the embedding is moved along its gradient first.
    """
    with using(LAYOUTS[layout]):
        model = tiny_model(
            group_size=8,
            num_layers=1,
            expert_frequency=1,
            dropout_rate=0.3,
            rematerialize=rematerialize,
            dtype=dtype,
            router=functools.partial(SwitchRouter, z_loss_coef=0.1),
        )
        variables = model.trainable_variables
        if move:
            along = gradients_of(layout, rematerialize)[1][TABLE]
            table = model.embedding.table
            put(table, to_numpy(table) + move * along / np.linalg.norm(along))
        names, watched = [], []

        @compiled
        def run(features):
            with tf.GradientTape() as tape:
                with (
                    step_seed(tf.constant([3, 4])),
                    collect() as reports,
                    watch() as seen,
                ):
                    logits = model(features, training=True)
                loss = tf.reduce_mean(tf.square(logits))
                for report in reports:
                    loss += coefficient * report.loss()
            names.extend(report.name for report in reports)
            watched.extend(name for name, _ in seen)
            return loss, *tape.gradient(loss, [v.value for v in variables])

        loss, *gradients = run(place_features(random_features()))
        found = {
            v.path: to_numpy(tf.convert_to_tensor(g))
            for v, g in zip(variables, gradients, strict=True)
        }
        return float(to_numpy(loss)), found, names, watched


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_gradients_and_reports_are_those_without_it(layout):
    kept, made_again = (gradients_of(layout, again) for again in (False, True))
    assert made_again[0] == pytest.approx(kept[0], rel=1e-6)
    for path, expected in kept[1].items():
        assert np.abs(expected).max() > 0, path
        assert error(made_again[1][path], expected) < 1e-5, path
    assert made_again[2] == kept[2]
    assert made_again[3] == kept[3]


@pytest.mark.parametrize("layout", ["no mesh", "with a model dimension"])
def test_the_noise_is_the_same_when_made_again(layout):
    """Else the gradient would not say how the loss changes."""
    ahead, behind = (gradients_of(layout, True, move=move)[0] for move in (1e-2, -1e-2))
    slope = np.linalg.norm(gradients_of(layout, True)[1][TABLE])
    assert (ahead - behind) / 2e-2 == pytest.approx(slope, rel=0.01)


def test_the_routers_losses_reach_it_through_it():
    path = "model/encoder/layer_0/feed_forward/switch_ffn/router/kernel"
    with_loss, without = (
        gradients_of("no mesh", True, coefficient=coefficient)[1][path]
        for coefficient in (1.0, 0.0)
    )
    assert np.abs(with_loss - without).max() > 1e-6


def test_it_works_in_bfloat16():
    kept, made_again = (gradients_of("no mesh", again, "bfloat16") for again in (False, True))
    for path, expected in kept[1].items():
        assert error(made_again[1][path], expected) < 1e-2, path


def test_without_a_seed_of_the_step_both_runs_draw_alike():
    dropout = Dropout(0.5, name="dropout")
    dropout.build(None)
    x_BLM = tf.ones([2, 8, 16])

    @compiled
    def run(x_BLM):
        with tf.GradientTape() as tape:
            tape.watch(x_BLM)
            y_BLM = rematerialize(lambda x: dropout(x, axes=(None,) * 3, training=True), x_BLM)
        return y_BLM, tape.gradient(y_BLM, x_BLM)

    y_BLM, gradient_BLM = run(x_BLM)
    assert 0 < np.count_nonzero(y_BLM) < y_BLM.numpy().size
    np.testing.assert_array_equal(gradient_BLM, y_BLM)


def test_the_losses_of_switch_layers_go_to_keras_where_nothing_collects_them():
    features = place_features(random_features())
    found = []
    for again in (False, True):
        model = tiny_model(group_size=None, dropout_rate=0.0, rematerialize=again, router=ARGMAX)
        model(features, training=True)
        found.append(sum(float(loss) for loss in model.losses))
    assert found[0] > 0.01
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_what_was_called_without_dropping_is_made_again_without():
    """Gradients are made when the context is closed."""
    router = functools.partial(SwitchRouter, policy="argmax", capacity_factor=0.25, min_capacity=1)
    layer = SwitchFFN(4, 8, router=router)
    layer.build((None, None, 16))
    x_BLM = tf.random.stateless_normal([2, 16, 16], [0, 0])

    @compiled
    def gradient(x_BLM, again, enabled):
        with tf.GradientTape() as tape:
            tape.watch(x_BLM)
            with collect(), dropless(enabled):
                call = functools.partial(layer, training=True)
                y_BLM = rematerialize(call, x_BLM) if again else call(x_BLM)
        return tape.gradient(y_BLM, x_BLM)

    for enabled in (True, False):
        assert error(gradient(x_BLM, True, enabled), gradient(x_BLM, False, enabled)) < 1e-5
    assert error(gradient(x_BLM, True, True), gradient(x_BLM, True, False)) > 0.1
