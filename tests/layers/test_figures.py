import numpy as np
import pytest
import tensorflow as tf

from switch_tf.layers.figures import Figures
from switch_tf.mesh import to_numpy
from tests.helpers import compiled, place, using


def test_a_step_returns_one_vector_whose_figures_are_found_by_name():
    figures = Figures()

    @compiled
    def run(x_BM):
        # As in a step: sums over what the mesh spreads.
        figures.add("step", "sum", {"total": tf.reduce_sum(x_BM), "rows": tf.constant(4.0)})
        figures.add_vector("layer", "mean", {"by column": 2, "first": None}, tf.reduce_sum(x_BM, 0))
        figures.add("layer", "max", {"largest": tf.reduce_max(x_BM)})
        figures.add_constants("layer", coefficient=0.1, names=("a", "b"))
        return figures.pack()

    with using(("batch:2", "batch:batch")):
        vector = to_numpy(run(place(np.arange(12, dtype=np.float32).reshape(4, 3), ["batch"])))
    assert vector.shape == (6,)
    found = figures.unpack(vector)
    assert found["step"] == {"total": 66.0, "rows": 4.0}
    assert found["layer"].pop("by column").tolist() == [18.0, 22.0]
    assert found["layer"] == {
        "coefficient": 0.1,
        "names": ("a", "b"),
        "first": 26.0,
        "largest": 11.0,
    }


def test_a_single_element_with_a_width_is_an_array():
    figures = Figures()
    figures.add_vector("layer", "mean", {"load_E": 1}, tf.constant([3.0]))
    assert figures.unpack(figures.pack().numpy())["layer"]["load_E"].tolist() == [3.0]


def test_parts_of_a_batch_combine_each_figure_its_own_way():
    figures = Figures()
    for combined in ("sum", "mean", "max", "first"):
        figures.add_vector("step", combined, {combined: 2}, tf.zeros([2]))
    figures.pack()
    parts = np.tile(np.float32([[1, 7], [3, 5], [2, 3]]), (1, 4))
    found = figures.unpack(figures.combine(parts))["step"]
    assert {name: values.tolist() for name, values in found.items()} == {
        "sum": [6.0, 15.0],
        "mean": [2.0, 5.0],
        "max": [3.0, 7.0],
        "first": [1.0, 7.0],
    }


def test_a_way_to_combine_that_there_is_not_is_an_error():
    figures = Figures()
    with pytest.raises(ValueError, match="'median' is not one of sum, mean, max, first"):
        figures.add("step", "median", {"loss": tf.constant(1.0)})
