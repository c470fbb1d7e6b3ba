import io

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np

from switch_tf.metrics.load_picture import draw_load, load_picture, stack_loads


def test_the_picture_grows_with_layers_and_experts():
    sizes = {}
    for layers, experts in ((1, 4), (6, 4), (1, 16)):
        routing = {f"layer_{i}": {"load_E": np.full(experts, 1 / experts)} for i in range(layers)}
        sizes[layers, experts] = matplotlib.image.imread(io.BytesIO(load_picture(routing))).shape
    assert sizes[6, 4][0] > sizes[1, 4][0]
    assert sizes[1, 16][1] > sizes[1, 4][1]


def test_layers_with_other_numbers_of_experts_share_a_picture():
    loads = [np.array([0.5, 0.5]), np.array([0.25, 0.25, 0.25, 0.25])]
    np.testing.assert_array_equal(stack_loads(loads)[0], [0.5, 0.5, np.nan, np.nan])
    routing = {str(i): {"load_E": load_E} for i, load_E in enumerate(loads)}
    assert load_picture(routing).startswith(b"\x89PNG")


def test_a_heat_map_shows_each_layers_load_from_zero_to_twice_the_even_share():
    load_NE = np.array([[0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]])
    figure = plt.Figure()
    axes = figure.subplots()
    draw_load(axes, load_NE, ["a", "b"])
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), load_NE)
    assert image.get_clim() == (0.0, 0.5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "expert"
