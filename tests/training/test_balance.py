"""The load-balancing loss of a compiled step in bfloat16: the same however the step is split.

In float32 it is part of the losses that the tests of layouts, parts and rematerialisation compare.
"""

import functools

import numpy as np
import pytest

from switch_tf.layers.router import SwitchRouter
from switch_tf.mesh import to_numpy
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant
from switch_tf.training.step import TrainStep
from tests.helpers import LAYOUTS, layout_of, place_features, random_features, tiny_model, using

ONE_DEVICE = ("batch:1", "batch:batch")
# Way of making the step -> layout, parts of the batch, and whether activations are made again.
WAYS = {name: (layout_of(name), 1, False) for name in LAYOUTS} | {
    "parts": (ONE_DEVICE, 4, False),
    "parts on a mesh": (layout_of("expert_model_data"), 2, False),
    "rematerialised": (layout_of("expert_data"), 1, True),
    "one device": (ONE_DEVICE, 1, False),
}


@functools.cache
def stepped(way, coefficient=1e-2):
    """Layer -> figures of a first step of a model of 1 + 1 sparse layers, and the router kernels.

    Groups are half sequences, so that a part of the batch has the groups of the whole.
    """
    layout, parts, again = WAYS[way]
    with using(layout) as mesh:
        router = functools.partial(SwitchRouter, jitter=0.0, load_balancing_coef=coefficient)
        model = tiny_model(
            group_size=4,
            router=router,
            num_layers=1,
            expert_frequency=1,
            dtype="bfloat16",
            rematerialize=again,
        )
        optimizer = Adafactor(constant(0.1))
        optimizer.build(model.trainable_variables)
        step = TrainStep(model, optimizer, mesh, seed=0, microbatches=parts)
        arrays = random_features(batch=32)
        arrays["decoder_loss_weights"] = (arrays["decoder_target_tokens"] > 0).astype(np.int32)
        figures = step(place_features(arrays), 0)
        weights = model.trainable_variables
        kernels = {v.path: to_numpy(v) for v in weights if v.path.endswith("router/kernel")}
    return figures["routing"], kernels


@pytest.mark.parametrize("way", [way for way in WAYS if way != "one device"])
def test_it_is_that_of_one_device_layer_by_layer(way):
    expected, found = stepped("one device")[0], stepped(way)[0]
    assert list(found) == list(expected) and len(found) == 2
    for layer, figures in expected.items():
        assert figures["load_balancing_loss"] > 1.01
        for name in ("load_balancing_loss", "weighted_loss"):
            assert found[layer][name] == pytest.approx(figures[name], rel=1e-2), (layer, name)


@pytest.mark.parametrize("way", ["expert_data", "parts on a mesh", "rematerialised"])
def test_its_gradient_reaches_the_router(way):
    with_loss, without = (stepped(way, coef)[1] for coef in (1e-2, 0.0))
    assert len(with_loss) == 2
    for path, kernel in with_loss.items():
        assert np.abs(kernel - without[path]).max() > 1e-4, path
