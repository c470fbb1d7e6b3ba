import functools
from collections import Counter
from pathlib import Path

import pytest

from switch_tf import mesh
from switch_tf.pages import sharding as page
from switch_tf.planner.lowered import Collective
from tests.helpers import layout_of

DOCS = Path(__file__).parent.parent.parent / "docs"
FOUND = [Collective("all-to-all", "bf16", 10, 4), Collective("all-to-all", "bf16", 10, 4)]

measured = functools.cache(page.measure)


def on_paper(name):
    return mesh.Mesh.on_paper(*layout_of(name))


@pytest.mark.parametrize("name", page.LAYOUTS)
def test_what_lies_where_and_crosses_devices_is_what_the_page_says(name):
    """Measured anew, as when the page was written."""
    assert (DOCS / f"sharding_{name}.png").exists()
    text = (DOCS / "sharding.md").read_text()
    section = "\n".join(page.section(name, measured(name)))
    assert section.strip() in text


def test_the_all_to_alls_are_of_the_experts_capacity():
    """E x C x d_model for the group of each device, twice forward and twice backward."""
    found = [c for c in measured("expert_data").found if c.kind == "all-to-all"]
    experts, d_model, devices = 8, 64, 8
    expected = Counter()
    for tokens in (32 * 64, 32 * 32):
        capacity = int(tokens // devices * 1.25 / experts)
        expected["bf16", experts * capacity * d_model, devices] += 4
    assert Counter((c.dtype, c.size, c.devices) for c in found) == expected


def test_collectives_that_are_alike_share_a_row():
    lines = list(page.section("data", page.LayoutMeasurements(on_paper("data"), FOUND)))
    assert "| all-to-all | bf16 | 10 | 4 | 2 | 0.04 kB |" in lines


# What a device's part of each activation is of: mesh dimensions, in the order of the axes.
ACTIVATIONS = {
    "tokens between layers": ("batch", "", "batch", "batch", "batch"),
    "attention weights": ("batch", "model", "batch model", "batch", "batch model"),
    "hidden layer, dense": ("batch", "model", "batch model", "batch", "batch model"),
    "experts' buffers": ("batch", "", "batch", "batch", "batch"),
    "hidden layer of experts": ("batch", "model", "batch model", "batch", "batch model"),
}


@pytest.mark.parametrize("name", page.LAYOUTS)
def test_activations_lie_in_the_lowered_step_as_the_layout_has_them(name):
    column = list(page.LAYOUTS).index(name)
    found = {what: " ".join(over) for what, (_, over) in measured(name).activations.items()}
    assert found == {what: columns[column] for what, columns in ACTIVATIONS.items()}


def test_a_picture_is_drawn(tmp_path):
    path = tmp_path / "picture.png"
    page.draw(page.LayoutMeasurements(on_paper("expert_model_data"), []), path)
    assert path.read_bytes().startswith(b"\x89PNG")
