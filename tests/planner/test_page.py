import functools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from switch_tf import mesh
from switch_tf.planner import page
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
    lines = list(page.section("data", page.Measured(on_paper("data"), FOUND)))
    assert "| all-to-all | bf16 | 10 | 4 | 2 | 40 |" in lines


def test_experts_buffers_lie_by_groups_where_the_experts_do_not_take_their_place():
    rows = {
        name: "\n".join(page.section(name, page.Measured(on_paper(name), [])))
        for name in ("data", "model_data", "expert_data")
    }
    buffers = "| activation: experts' buffers | groups experts expert_capacity d_model | "
    for text in rows.values():
        assert buffers + "batch |" in text


def test_a_picture_is_drawn(tmp_path):
    path = tmp_path / "picture.png"
    page.draw(page.Measured(on_paper("expert_model_data"), []), path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", ["page", "models"])
def test_a_command_imports_no_tensorflow_before_it_starts_it(command):
    code = f"import sys, switch_tf.planner.{command}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
