import numpy as np
import pytest
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.training.norms import Norms, group_of
from tests.helpers import tiny_model, using

LAYOUTS = {
    "one device": ("batch:1", "batch:batch"),
    "experts with data": ("batch:8", "batch:batch,experts:batch"),
    "mixed": ("batch:2,model:4", "batch:batch,experts:batch,d_ff:model,vocab:model"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_norms_are_those_of_all_elements_of_a_group_on_any_mesh(layout):
    with using(LAYOUTS[layout]):
        variables = tiny_model(num_layers=2).trainable_variables
        norms = Norms(variables)

        @tf.function(autograph=False)
        def squares():
            values = [variable.value.read_value() for variable in variables]
            return norms.squares([2.0 * v for v in values], [3.0 * v for v in values])

        found = norms.by_group(squares())
        arrays = {v.path: mesh_lib.to_numpy(v.value) for v in variables}
    expected = {"all": 0.0}
    for path, array in arrays.items():
        for group in ("all", group_of(path)):
            expected[group] = expected.get(group, 0.0) + float(np.square(array).sum())
    assert found.keys() == {"gradient", "update", "weight"}
    for kind, factor in (("gradient", 2.0), ("update", 3.0), ("weight", 1.0)):
        assert found[kind] == pytest.approx(
            {group: factor * square**0.5 for group, square in expected.items()}, rel=1e-5
        )


def test_a_group_is_a_stack_and_a_kind_of_layer():
    with using(LAYOUTS["one device"]):
        groups = {group_of(v.path) for v in tiny_model(num_layers=2).trainable_variables}
    kinds = ("attention", "experts", "ffn", "norm", "relative_position_bias", "router")
    assert groups == {"embedding"} | {f"{s}/{k}" for s in ("encoder", "decoder") for k in kinds}
