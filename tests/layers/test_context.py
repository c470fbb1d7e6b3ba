import functools

import numpy as np
import pytest
import tensorflow as tf

from switch_tf.layers.base import Layer
from switch_tf.layers.context import (
    CallContext,
    collect,
    current_build,
    current_call,
    declare_only,
    dropless,
    inference_scope,
    model_seed,
    see,
    step_seed,
    watch,
)
from switch_tf.layers.dropout import layer_seed
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_ffn import SwitchFFN

SEED = np.int32([3, 4])
CALLS = {
    "reports": collect,
    "dropless": dropless,
    "seed": functools.partial(step_seed, SEED),
    "watched": watch,
}


@pytest.mark.parametrize("inner", CALLS)
@pytest.mark.parametrize("outer", CALLS)
def test_a_context_changes_what_it_names_alone_and_the_innermost_holds(outer, inner):
    nothing = CallContext()
    assert current_call() == nothing
    with CALLS[outer]():
        around = current_call()
        with CALLS[inner]():
            for name in CALLS:
                found = getattr(current_call(), name)
                if name == inner:
                    assert found is not getattr(nothing, name)
                else:
                    assert found is getattr(around, name)
        assert current_call() is around
    assert current_call() == nothing


def test_a_report_goes_to_the_innermost_list_alone():
    layer = SwitchFFN(2, 8, name="layer")
    with collect() as outer:
        layer(tf.ones([1, 8, 4]))
        with collect() as inner:
            layer(tf.ones([1, 8, 4]))
    assert [report.name for report in inner] == ["layer"]
    assert len(outer) == 1


def test_dropping_can_be_asked_for_within_what_is_dropless():
    router = SwitchRouter(8, eval_capacity_factor=2.0)
    with dropless():
        assert router.capacity(32, training=False) == 32
        with dropless(False):
            assert router.capacity(32, training=False) == 8


def test_an_error_leaves_no_context_open():
    with pytest.raises(ZeroDivisionError), collect(), dropless(), model_seed(3), declare_only():
        raise ZeroDivisionError
    assert current_call() == CallContext()
    assert current_build().seed is None and current_build().declared is None


def test_the_seed_of_the_model_and_declarations_nest_either_way():
    with declare_only() as declared, model_seed(5):
        assert current_build().seed == 5 and current_build().declared is declared
    with model_seed(5), declare_only() as declared:
        assert current_build().seed == 5 and current_build().declared is declared


def test_what_is_watched_is_summed_up_by_sequence():
    x_BLM = np.float32([[[1, -2], [3, 0]], [[0, 0], [0, -4]]])
    see("unseen", x_BLM)
    with watch() as watched:
        see("layer", x_BLM)
    assert [(path, size_B.numpy().tolist()) for path, size_B in watched] == [("layer", [6.0, 4.0])]


@pytest.mark.parametrize("is_dropless, capacity", [(True, 32), (False, 8)])
def test_inference_collects_drops_as_asked_and_draws_alike(is_dropless, capacity):
    router = functools.partial(SwitchRouter, eval_capacity_factor=2.0)
    layer = SwitchFFN(8, 8, router=router, name="layer")
    seeds = []
    # Whatever is around.
    with step_seed(tf.constant([3, 4])), dropless(not is_dropless):
        for _ in range(2):
            with inference_scope(is_dropless) as reports:
                layer(tf.ones([1, 32, 4]))
                seeds.append(layer_seed(layer).numpy().tolist())
            assert [report.routing.capacity for report in reports] == [capacity]
    assert seeds[0] == seeds[1]
    with step_seed(tf.constant([3, 4])):
        assert layer_seed(layer).numpy().tolist() != seeds[0]


def test_layers_without_a_seed_draw_another_at_each_call():
    layer = Layer(name="layer")
    assert layer_seed(layer).numpy().tolist() != layer_seed(layer).numpy().tolist()
