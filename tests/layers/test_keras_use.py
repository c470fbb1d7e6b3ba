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
from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, TopKRouter
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
