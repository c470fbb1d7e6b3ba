"""Settings of the model: dtypes, counts, configs, and what gin may set."""

import functools

import gin
import pytest

from switch_tf import configurables, rules
from switch_tf.errors import UserError
from switch_tf.layers.context import declare_only
from switch_tf.layers.dispatch import EinsumDispatcher
from switch_tf.layers.group_router import ExpertChoiceRouter, ExpertSelectionRouter, SwitchMaxRouter
from switch_tf.layers.measuring_router import UniformRouter, WorstCaseRouter, ZipfRouter
from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, Top2Router, TopKRouter
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_attention import SwitchAttention, SwitchProjection
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.mesh import to_numpy
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder, parameter_count
from switch_tf.runtime import dtype_policy
from tests.helpers import tiny_model


def test_dtypes_are_float32_and_bfloat16():
    assert [dtype_policy(name) for name in ("float32", "bfloat16")] == ["float32", "mixed_bfloat16"]


@pytest.mark.parametrize("dtype", ["float16", "float64", ""])
def test_another_dtype_is_one_line(dtype):
    with pytest.raises(UserError) as caught:
        tiny_model(dtype=dtype)
    assert str(caught.value).splitlines()[0] == (
        f"TransformerEncoderDecoder.dtype='{dtype}': give 'float32' or 'bfloat16'; T5's "
        "activations overflow float16"
    )


def test_parameters_and_flops_are_those_counted_by_hand():
    sizes = dict(vocab_size=50, d_model=6, d_kv=2, num_heads=3, d_ff=10, num_layers=1)
    model = TransformerEncoderDecoder(**sizes, activation="geglu", tied_softmax=False)
    model.build()
    attention, feed_forward = 4 * 6 * 6, 3 * 6 * 10
    norms, position_biases = 7 * 6, 2 * 32 * 3
    matrices = 3 * attention + 2 * feed_forward
    assert parameter_count(model) == 2 * 50 * 6 + matrices + norms + position_biases
    # Of 5 and 3 tokens: products with the weights, and of queries, keys and values.
    encoder = 5 * (attention + feed_forward) + 2 * 5 * 5 * 6
    decoder = 3 * (attention + feed_forward) + 2 * 3 * 3 * 6
    cross = 3 * attention // 2 + 5 * attention // 2 + 2 * 3 * 5 * 6
    assert model.flops(5, 3) == 2 * (encoder + decoder + cross + 3 * 50 * 6)


def test_a_sparse_models_flops_hardly_grow_with_its_experts():
    dense, few, many = (
        tiny_model(num_experts=n, expert_frequency=f).flops(16, 8)
        for n, f in ((2, 0), (2, 2), (64, 2))
    )
    router = 2 * (16 + 8) * 16
    assert (few - dense, many - dense) == (2 * router, 64 * router)


@pytest.mark.parametrize(
    "settings",
    [
        {"expert_frequency": 0, "tied_softmax": False},
        {"router": functools.partial(Top2Router, second_policy="all", capacity_factor=2.0)},
        {"encoder_sparse_layers": (), "decoder_sparse_layers": (1,), "rematerialize": True},
    ],
    ids=["dense", "top-2", "by list"],
)
def test_a_model_is_rebuilt_from_its_config(settings):
    model = tiny_model(**settings, seed=5, dtype="bfloat16")
    again = TransformerEncoderDecoder.from_config(model.get_config())
    again.build()
    assert again.compute_dtype == "bfloat16"
    assert again.get_config() == model.get_config()
    for ours, theirs in zip(again.trainable_variables, model.trainable_variables, strict=True):
        assert ours.path == theirs.path
        assert to_numpy(ours).tobytes() == to_numpy(theirs).tobytes()


# Router -> its own parameters, with values that are not the defaults.
ROUTERS = {
    SwitchRouter: {
        "policy": "sample",
        "eval_policy": "input_dropout",
        "jitter": 0.2,
        "input_dropout_rate": 0.3,
        "temperature": 2.0,
    },
    TopKRouter: {"k": 3, "normalize_gates": False},
    Top2Router: {
        "second_policy": "threshold",
        "eval_second_policy": "all",
        "second_threshold": 0.4,
        "second_place_loss": True,
    },
    NoTokenLeftBehindRouter: {"k": 3},
    SwitchMaxRouter: {"in_decoder": True},
    ExpertChoiceRouter: {"in_decoder": True},
    ExpertSelectionRouter: {"in_decoder": True},
    UniformRouter: {},
    ZipfRouter: {"exponent": 2.0},
    WorstCaseRouter: {},
}
OF_ALL_ROUTERS = {
    "capacity_factor": 1.5,
    "eval_capacity_factor": 3.0,
    "min_capacity": 2,
    "absolute_capacity": 7,
    "load_balancing_coef": 0.5,
    "z_loss_coef": 0.25,
}


@pytest.fixture
def bind():
    """A function that sets gin parameters, until the test ends."""
    yield lambda settings: gin.parse_config([f"{name} = {v!r}" for name, v in settings.items()])
    gin.clear_config()


def switch_layers(model, kind=SwitchFFN):
    return [layer for layer in model.switch_layers if isinstance(layer, kind)]


@pytest.mark.parametrize("kind", ROUTERS, ids=lambda kind: kind.__name__)
def test_a_router_is_one_line_of_gin_and_its_settings_are_others(kind, bind):
    name, own = kind.__name__, ROUTERS[kind]
    bind({f"{name}.{key}": value for key, value in own.items()})
    bind({f"Router.{key}": value for key, value in OF_ALL_ROUTERS.items()})
    gin.parse_config(f"SwitchLayer.router = @{name}\nSwitchFFN.num_experts = 8")
    with declare_only():
        layers = switch_layers(tiny_model(switch_ffn=SwitchFFN))
    assert layers
    for layer in layers:
        assert type(layer.router).__name__ == name
        expected = OF_ALL_ROUTERS | own | {"num_experts": 8, "dropless": False}
        config = layer.router.get_config()
        assert {key: config[key] for key in expected} == expected
        again = type(layer.router).from_config(config)
        assert again.get_config() == config


def test_dropless_and_the_dispatcher_are_set_in_gin(bind):
    bind({"Router.dropless": True, "SwitchFFN.num_experts": 8})
    gin.parse_config("SwitchLayer.dispatcher = @EinsumDispatcher")
    with declare_only():
        for layer in switch_layers(tiny_model(switch_ffn=SwitchFFN)):
            assert layer.router.capacity(100, training=True) == 100
            assert isinstance(layer.dispatcher, EinsumDispatcher)


def test_switch_attention_is_one_line_of_gin(bind):
    bind({"SwitchProjection.num_experts": 8})
    with declare_only():
        gin.parse_config("TransformerEncoderDecoder.switch_attention = @SwitchAttention")
        model = tiny_model(switch_ffn=None)
    # The encoder's and the decoder's second layer, queries apart from keys and values.
    assert len(switch_layers(model, SwitchProjection)) == 4


def test_what_gin_is_refused_the_model_really_gives():
    """Were a layer to take gin's value, refusing it would take a setting away."""
    layers = {"SwitchFFN", "SwitchProjection", "SwitchAttention", "SwitchLayer", "Router"}
    of_model = {
        f"{found.name}.{parameter}"
        for found in configurables.project_source().configurables
        for parameter, annotation in (found.parameters or {}).items()
        if found.name in layers and rules.mark(annotation, rules.SetBy)
    }
    assert {name.partition(".")[0] for name in of_model} == layers
    router = functools.partial(SwitchRouter)
    make = {
        "switch_ffn": functools.partial(SwitchFFN, 4, router=router),
        "switch_attention": functools.partial(
            SwitchAttention, projection=functools.partial(SwitchProjection, 4, router=router)
        ),
    }
    with declare_only():
        expected = tiny_model(**make).get_config()
        for name in of_model:
            gin.bind_parameter(name, "of gin")
        try:
            assert tiny_model(**make).get_config() == expected
        finally:
            gin.clear_config()
