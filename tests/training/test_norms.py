from types import SimpleNamespace

import numpy as np

from switch_tf.training.norms import Norms, group_of
from tests.helpers import tiny_model, using


def test_norms_are_those_of_all_elements_of_a_group():
    paths = [
        "model/embedding/table",
        "model/encoder/layer_0/ffn/wi",
        "model/encoder/layer_0/ffn/wo",
    ]
    squares = np.float32([[9, 1, 3], [16, 4, 5], [25, 0, 1]])
    found = Norms([SimpleNamespace(path=path) for path in paths]).by_group(squares)
    assert found == {
        "gradient": {"all": 13**0.5, "embedding": 3, "encoder/ffn": 2},
        "update": {"all": 5, "embedding": 4, "encoder/ffn": 3},
        "weight": {"all": 26**0.5, "embedding": 5, "encoder/ffn": 1},
    }


def test_a_group_is_a_stack_and_a_kind_of_layer():
    with using(("batch:1", "batch:batch")):
        groups = {group_of(v.path) for v in tiny_model(num_layers=2).trainable_variables}
    kinds = ("attention", "experts", "ffn", "norm", "relative_position_bias", "router")
    assert groups == {"embedding"} | {f"{s}/{k}" for s in ("encoder", "decoder") for k in kinds}
