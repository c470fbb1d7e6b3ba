"""The five layouts of gin/layouts on eight devices, against a single device."""

import functools

import pytest
from tensorflow.experimental import dtensor

from switch_tf.layers.multi_router import NoTokenLeftBehindRouter, TopKRouter
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_attention import SwitchAttention, SwitchProjection
from switch_tf.mesh import to_numpy
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant
from tests.helpers import (
    LAYOUTS,
    error,
    layout_of,
    loss_and_gradients,
    part_shapes,
    random_features,
    tiny_model,
    using,
)

# Sparse layers are alike: one of each stack suffices where a layer takes long to compile.
MODELS = {
    "switch, ReLU, tied": {"router": functools.partial(SwitchRouter, jitter=0.0, z_loss_coef=0.1)},
    "top-3, GEGLU, untied, made again": {
        "router": functools.partial(TopKRouter, k=3, capacity_factor=3.0),
        "activation": "geglu",
        "tied_softmax": False,
        "rematerialize": True,
        "num_layers": 1,
    },
    "no token left behind, switch attention": {
        "num_layers": 1,
        "router": functools.partial(NoTokenLeftBehindRouter, k=3, jitter=0.0, capacity_factor=1.0),
        "switch_attention": functools.partial(
            SwitchAttention,
            projection=functools.partial(
                SwitchProjection,
                8,
                group_size=8,
                router=functools.partial(SwitchRouter, jitter=0.0),
            ),
        ),
    },
}


@functools.cache
def of_one_batch(layout, kind):
    """Path -> gradient of one batch, in float32, every layer sparse; `loss` too.

    A device holds of a gradient what it holds of the weight.
    """
    with using(layout):
        model = tiny_model(8, group_size=8, expert_frequency=1, **MODELS[kind])
        loss, gradients = loss_and_gradients(model, random_features(), 1e-2)
        found = {"loss": loss} | gradients
        if layout is not None:
            held = {
                path: {tuple(part.shape) for part in dtensor.unpack(value)}
                for path, value in found.items()
            }
            expected = {v.path: part_shapes(v) for v in model.trainable_variables}
            assert held == {"loss": {()}} | expected
    return {path: to_numpy(value) for path, value in found.items()}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_loss_and_gradients_are_those_of_a_single_device(name, kind):
    expected = of_one_batch(None, kind)
    found = of_one_batch(layout_of(name), kind)
    errors = {path: error(value, expected[path]) for path, value in found.items()}
    assert {path: value for path, value in errors.items() if value > 1e-4} == {}


# End of a weight's path -> its shape in the model of the test, and on a device in each layout.
PARTS = {
    "embedding/table": ((64, 16), (8, 16), (32, 16), (64, 16), (32, 16)),
    "attention/query": ((16, 8, 4), (16, 1, 4), (16, 4, 4), (16, 8, 4), (16, 4, 4)),
    "attention/output": ((8, 4, 16), (1, 4, 16), (4, 4, 16), (8, 4, 16), (4, 4, 16)),
    "ffn/wi": ((16, 32), (16, 4), (16, 16), (16, 32), (16, 16)),
    "ffn/wo": ((32, 16), (4, 16), (16, 16), (32, 16), (16, 16)),
    "router/kernel": ((16, 8),) * 5,
    "experts/wi": ((8, 16, 32), (8, 16, 4), (8, 16, 16), (1, 16, 32), (2, 16, 16)),
    "experts/wo": ((8, 32, 16), (8, 4, 16), (8, 16, 16), (1, 32, 16), (2, 16, 16)),
    "norm/scale": ((16,),) * 5,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_device_holds_its_part_of_weights_and_slots(name):
    column = LAYOUTS.index(name)
    with using(layout_of(name)):
        model = tiny_model(8)
        optimizer = Adafactor(constant(0.1))
        optimizer.build(model.trainable_variables)
        held = {v.path: part_shapes(v) for v in model.trainable_variables}
        # Too small to be factored: a slot of each weight, of its shape.
        slots = [part_shapes(slot) for slot in optimizer.slots.values()]
    for end, shapes in PARTS.items():
        found = [parts for path, parts in held.items() if path.endswith(end)]
        assert found and all(parts == {shapes[column]} for parts in found), end
    assert slots == list(held.values())
