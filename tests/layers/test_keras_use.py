"""Our layers in a user's own Keras model: functional, compiled, fitted, saved and loaded."""

import functools
import inspect

import keras
import numpy as np
import pytest

from switch_tf.errors import UserError
from switch_tf.layers.attention import Attention
from switch_tf.layers.dispatch import EinsumDispatcher
from switch_tf.layers.dropout import Dropout
from switch_tf.layers.embedding import Embedding, Softmax
from switch_tf.layers.feed_forward import FeedForward
from switch_tf.layers.group_router import (
    ExpertChoiceRouter,
    ExpertSelectionRouter,
    SwitchMaxRouter,
)
from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, Top2Router, TopKRouter
from switch_tf.layers.norm import RMSNorm
from switch_tf.layers.relative_position import RelativePositionBias
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_attention import ProjectionExperts, SwitchAttention, SwitchProjection
from switch_tf.layers.switch_ffn import Experts, SwitchFFN
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from tests.helpers import random_features, tiny_model

KINDS = {
    "switch": {},
    "jitter, dropout and einsum": {
        "router": functools.partial(SwitchRouter, policy="input_jitter", jitter=0.1),
        "dispatcher": EinsumDispatcher,
        "expert_dropout_rate": 0.1,
    },
    "top-k": {"router": functools.partial(TopKRouter, k=3, capacity_factor=3.0)},
    "no token left behind": {"router": functools.partial(NoTokenLeftBehindRouter, k=2)},
}


def functional(layer=None, **kwargs):
    inputs = keras.Input((12, 16))
    layer = layer or SwitchFFN(4, 32, name="switch", **kwargs)
    hidden = inputs + layer(inputs)
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    outputs = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(0))(pooled)
    return keras.Model(inputs, outputs)


def data():
    x = np.random.default_rng(0).normal(size=(40, 12, 16)).astype(np.float32)
    return x, x.mean(axis=(1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_functional_model_is_fitted_saved_and_loaded(kind, tmp_path):
    model = functional(**KINDS[kind])
    model.compile("adam", "mse")
    x, y = data()
    before = model.get_layer("switch").experts.wo.numpy()
    # The last batch of an epoch is smaller: the layer takes any.
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    assert np.abs(model.get_layer("switch").experts.wo.numpy() - before).max() > 0
    path = str(tmp_path / "model.keras")
    model.save(path)
    again = keras.models.load_model(path)
    assert again.get_layer("switch").get_config() == model.get_layer("switch").get_config()
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_switch_attention_is_fitted_saved_and_loaded(tmp_path):
    projection = functools.partial(SwitchProjection, 4)
    model = functional(SwitchAttention(2, 8, projection=projection, name="attention"))
    model.compile("adam", "mse")
    x, y = data()
    losses = model.fit(x, y, batch_size=16, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[1] < losses[0]
    path = str(tmp_path / "model.keras")
    model.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_the_load_balancing_loss_is_part_of_keras_loss():
    x, y = data()
    found = []
    for coefficient in (0.0, 1.0):
        router = functools.partial(SwitchRouter, load_balancing_coef=coefficient, policy="argmax")
        model = functional(router=router)
        model.compile("adam", "mse")
        found.append(model.evaluate(x, y, batch_size=40, verbose=0))
    # Near 1 where the load is even; the rest of the loss is small.
    assert found[1] - found[0] > 0.9


def weights_of(make, seed, build=lambda layer: layer.build((None, 12, 16))):
    """The initial weights of what is made after Keras's seed is set, flat."""
    keras.utils.set_random_seed(seed)
    made = make()
    if isinstance(made, keras.layers.Layer) and not made.built:
        build(made)
    return np.concatenate([weight.ravel() for weight in made.get_weights()])


@keras.saving.register_keras_serializable("tests")
class Tower(keras.Model):
    """A user's subclassed model, of layers with names of their own."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.first = SwitchFFN(4, 32, name="experts", seed=seed)
        self.norm = RMSNorm()
        self.second = FeedForward(32, name="dense", seed=seed)

    def call(self, x):
        return self.second(self.norm(self.first(x)))


def tower():
    model = Tower()
    model(np.zeros((2, 12, 16), np.float32))
    return model


DRAWN = {
    "a layer": lambda: SwitchFFN(4, 32),
    "a layer with a name": lambda: SwitchFFN(4, 32, name="experts"),
    "attention": lambda: Attention(2, 8),
    "a functional model": functional,
    "a subclassed model": tower,
    "a whole model": lambda: tiny_model(4, seed=None),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_keras_seed_seeds_the_initial_weights(kind):
    first, again, other = (weights_of(DRAWN[kind], seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    # Norms' scales are ones, whatever the seed.
    assert np.mean(first != other) > 0.9


def test_layers_of_one_name_differ_and_so_do_the_weights_of_one_layer():
    keras.utils.set_random_seed(3)
    first, second = (functional().get_layer("switch") for _ in range(2))
    for one, two in zip(first.weights, second.weights, strict=True):
        assert np.mean(one.numpy() != two.numpy()) > 0.9
    wi, wo = (first.experts.wi[0].numpy(), first.experts.wo.numpy())
    assert np.abs(np.corrcoef(wi.ravel(), wo.ravel())[0, 1]) < 0.1
    assert np.abs(np.corrcoef(wi[0].ravel(), wi[1].ravel())[0, 1]) < 0.2


def test_a_seed_of_a_layer_is_that_of_its_weights_whatever_its_name_and_keras_seed():
    def layer(seed, **kwargs):
        return lambda: SwitchFFN(4, 32, seed=seed, **kwargs)

    first = weights_of(layer(5), 1)
    np.testing.assert_array_equal(first, weights_of(layer(5, name="other"), 2))
    assert np.mean(first != weights_of(layer(6), 1)) > 0.9
    seeded = Tower(seed=5)
    seeded(np.zeros((2, 12, 16), np.float32))
    np.testing.assert_array_equal(
        first, np.concatenate([weight.ravel() for weight in seeded.first.get_weights()])
    )
    # The weights in it differ all the same.
    wi, wo = seeded.first.experts.wi[0].numpy(), seeded.first.experts.wo.numpy()
    assert np.mean(wi.ravel() != wo.ravel()) > 0.9
    with pytest.raises(UserError, match="^SwitchFFN.seed=-1: give a whole number from 0 to "):
        SwitchFFN(4, 32, seed=-1)


def test_a_clone_draws_weights_of_its_own_unless_a_layer_has_a_seed():
    keras.utils.set_random_seed(1)
    for seed in (None, 4):
        model = functional(seed=seed)
        clone = keras.models.clone_model(model)
        kernels = [each.get_layer("switch").experts.wo.numpy() for each in (model, clone)]
        assert np.array_equal(*kernels) == (seed is not None)
        clone.set_weights(model.get_weights())
        x, _ = data()
        np.testing.assert_array_equal(clone(x), model(x))


ROUTERS = [
    *(SwitchRouter, SwitchMaxRouter, ExpertChoiceRouter, ExpertSelectionRouter),
    *(TopKRouter, functools.partial(Top2Router, second_policy="all"), NoTokenLeftBehindRouter),
]


@pytest.mark.parametrize("router", ROUTERS, ids=lambda r: getattr(r, "func", r).__name__)
def test_rows_without_a_length_are_one_sequence_of_any_size(router):
    layer = SwitchFFN(4, 32, router=router, seed=0)
    model = keras.Sequential([keras.Input((16,)), layer])
    assert model.output_shape == (None, 16)
    x, _ = data()
    for rows in (x[0], x[:2].reshape(24, 16)):
        expected = layer(rows[None])[0]
        # An expert whose capacity is a tensor takes as many as one whose capacity is a number.
        np.testing.assert_array_equal(model.predict(rows, batch_size=99, verbose=0), expected)
        np.testing.assert_array_equal(layer(rows), expected)


def test_a_model_of_rows_is_fitted():
    outputs = [SwitchFFN(4, 32, dispatcher=EinsumDispatcher), FeedForward(32), Softmax(1)]
    model = keras.Sequential([keras.Input((16,)), *outputs])
    model.compile("adam", "mse")
    x, y = data()
    losses = model.fit(x[:, 0], y, batch_size=16, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and model.output_shape == (None, 1)


def test_a_mask_of_rows_keeps_them_out_of_the_experts():
    layer = SwitchFFN(4, 32, router=functools.partial(SwitchRouter, dropless=True))
    x, mask = data()[0][0], np.arange(12) < 7
    routed = np.abs(layer(x, mask=mask)).sum(axis=-1) > 0
    np.testing.assert_array_equal(routed, mask)


@pytest.mark.parametrize("make", [lambda: SwitchFFN(4, 32), lambda: FeedForward(32)])
def test_an_input_of_other_axes_is_refused(make):
    told = "takes \\[batch, length, d_model\\] or \\[batch, d_model\\], but its input has 4 axes"
    with pytest.raises(UserError, match=told):
        make()(np.zeros((2, 3, 4, 16), np.float32))
    with pytest.raises(UserError, match="Attention takes .batch, length, d_model., but its input "):
        Attention(2, 4)(np.zeros((2, 16), np.float32))


@pytest.mark.parametrize(
    "layer, given, shape",
    [
        (SwitchFFN(4, 32), (None, 12, 16), (None, 12, 16)),
        (SwitchFFN(4, 32), (None, 16), (None, 16)),
        (FeedForward(32), (None, None, 16), (None, None, 16)),
        (Attention(2, 8), (3, None, 16), (3, None, 16)),
        (RMSNorm(), (None, 12, 16), (None, 12, 16)),
        (Dropout(0.1), (4, 12), (4, 12)),
        (Embedding(20, 16), (None, 12), (None, 12, 16)),
        (Softmax(20), (None, 12, 16), (None, 12, 20)),
        (
            SwitchProjection(4, ("key", "value"), 2, 8),
            (None, 12, 16),
            [(None, 12, 2, 8), (None, 12, 2, 8)],
        ),
        (
            tiny_model(4, built=False),
            {name: (None, 12) for name in ("encoder_input_tokens", "decoder_input_tokens")},
            (None, 12, 64),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_layer_tells_the_shape_of_its_output(layer, given, shape):
    assert layer.compute_output_shape(given) == shape


@pytest.mark.parametrize(
    "make",
    [
        *(functools.partial(SwitchFFN, 4, 32, router=router) for router in ROUTERS),
        functools.partial(SwitchFFN, 4, 32, dispatcher=EinsumDispatcher),
        functools.partial(FeedForward, 32, dropout_rate=0.1),
        functools.partial(Attention, 2, 8),
        functools.partial(SwitchAttention, 2, 8, projection=functools.partial(SwitchProjection, 4)),
        RMSNorm,
        functools.partial(Softmax, 20),
    ],
)
def test_under_a_policy_of_float64_weights_and_outputs_are_float64(make):
    x = data()[0][:4].astype(np.float64)
    layer = make(dtype="float64", seed=0)
    assert layer(x).dtype == "float64"
    assert {weight.dtype for weight in layer.weights} == {"float64"}
    again = type(layer).from_config(layer.get_config())
    assert again(x).dtype == "float64" and {w.dtype for w in again.weights} == {"float64"}
    # Of the same values, which float32 rounds.
    narrow = make(seed=0)
    np.testing.assert_allclose(layer(x), narrow(x.astype(np.float32)), atol=1e-5)
    # As Keras's loss, to which they are added.
    assert all(loss.dtype == "float32" for loss in layer.losses)


@pytest.mark.parametrize("floatx", ["float32", "float64"])
def test_a_layer_of_float64_is_fitted_with_its_losses(floatx):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        inputs = keras.Input((6, 16), dtype="float64")
        layer = SwitchFFN(4, 32, dtype="float64", seed=0)
        outputs = keras.layers.Dense(1, dtype="float64")(layer(inputs))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
        x = np.random.default_rng(0).normal(size=(8, 6, 16))
        before_fit = layer.router.weights[0].numpy()
        history = model.fit(x, x.mean(axis=-1, keepdims=True), verbose=0).history
    finally:
        keras.config.set_floatx(before)
    of_targets = np.mean((model.predict(x, verbose=0) - x.mean(axis=-1, keepdims=True)) ** 2)
    assert np.isfinite(history["loss"]).all() and np.isfinite(of_targets)
    assert layer.router.weights[0].dtype == "float64"
    assert not np.array_equal(layer.router.weights[0].numpy(), before_fit)


def test_groups_of_a_size_need_a_batch_of_known_size():
    with pytest.raises(UserError) as caught:
        functional(group_size=24)
    assert str(caught.value) == (
        "SwitchFFN.group_size=24 needs to know the batch: give keras.Input a batch_size, or leave "
        "group_size and groups_multiple out"
    )


def test_a_length_must_be_known():
    with pytest.raises(UserError, match="SwitchFFN needs to know the length"):
        SwitchFFN(4, 32)(keras.Input((None, 16)))


def test_a_keras_mask_keeps_padding_out_of_the_experts():
    inputs = keras.Input((6,), dtype="int32")
    embedded = keras.layers.Embedding(20, 16, mask_zero=True)(inputs)
    layer = SwitchFFN(4, 32, router=functools.partial(SwitchRouter, dropless=True))
    model = keras.Model(inputs, layer(embedded))
    tokens = np.random.default_rng(0).integers(1, 20, (8, 6))
    tokens[:, 4:] = 0
    routed = np.abs(model.predict(tokens, verbose=0)).sum(axis=-1) > 0
    np.testing.assert_array_equal(routed, tokens > 0)


def encoder_decoder(switch_ffn):
    lengths = {"encoder_input_tokens": 12, "decoder_input_tokens": 6, "decoder_target_tokens": 6}
    inputs = {name: keras.Input((n,), dtype="int32", name=name) for name, n in lengths.items()}
    model = keras.Model(inputs, tiny_model(4, None, switch_ffn=switch_ffn, built=False)(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    model.compile("adam", loss)
    return model


@keras.saving.register_keras_serializable("tests")
class TwiceSwitchFFN(SwitchFFN):
    def call(self, x_BLM, nonpadding_BL=None, training=False, mask=None):
        return 2.0 * super().call(x_BLM, nonpadding_BL, training=training, mask=mask)


class UnknownSwitchFFN(SwitchFFN):
    pass


def test_a_whole_model_with_a_layer_of_the_users_is_fitted_saved_and_loaded(tmp_path):
    model = encoder_decoder(functools.partial(TwiceSwitchFFN, 4))
    features = random_features(40, 12, 6)
    model.fit(features, features["decoder_target_tokens"], batch_size=16, epochs=2, verbose=0)
    path = str(tmp_path / "model.keras")
    model.save(path)
    again = keras.models.load_model(path)
    transformer = again.get_layer("model")
    assert type(transformer.encoder.blocks[1].feed_forward.layer) is TwiceSwitchFFN
    np.testing.assert_array_equal(
        again.predict(features, verbose=0), model.predict(features, verbose=0)
    )


def test_a_layer_that_keras_does_not_know_is_named():
    config = tiny_model(switch_ffn=functools.partial(UnknownSwitchFFN, 4), built=False).get_config()
    with pytest.raises(UserError, match="Keras knows no class 'UnknownSwitchFFN'"):
        TransformerEncoderDecoder.from_config(config)


@pytest.mark.parametrize(
    "layer",
    [
        Experts(4, 8, "geglu", 0.1, 0.2),
        ProjectionExperts(4, ("key", "value"), 2, 4, 0.2),
        FeedForward(8, "geglu", 0.1, 0.2),
        Attention(2, 4, 0.1, 0.2),
        RMSNorm(1e-5),
        Dropout(0.1, (1,)),
        Embedding(16, 8),
        Softmax(16, 0.5),
        RelativePositionBias(2, True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_is_made_again_from_its_config(layer):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    given = set(inspect.signature(type(layer).__init__).parameters) - {"self", "kwargs"}
    assert given <= set(config)
