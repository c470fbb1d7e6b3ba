import functools
from pathlib import Path

import gin
import pytest

from switch_tf.pages import planned as page
from switch_tf.planner import ranking
from switch_tf.planner.estimate import EFFICIENCY
from switch_tf.planner.slices import CHIPS, Slice

DOCS = Path(__file__).parent.parent.parent / "docs"
speeds = functools.cache(page.speeds)


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def test_the_efficiency_is_the_one_that_table_1_gives():
    assert page.fitted(speeds()) == pytest.approx(EFFICIENCY, abs=0.0005 + 1e-9)


def test_every_row_of_table_1_is_there_and_fits_its_32_cores():
    assert len(speeds()) == 9
    for row, one in speeds():
        assert one.fits and one.slice.name == "v3-32", row.name
        assert one.step.sizes.data.batch_size == 2048


def test_deviations_are_within_what_the_page_says():
    """A third of any two models, a tenth of the capacity factors of Switch-Base."""
    ratio = {row.name: one.examples_per_second / row.examples for row, one in speeds()}
    assert max(ratio.values()) / min(ratio.values()) < 1.7
    basis = ratio["Switch-Base, 1.0"]
    assert all(abs(value / basis - 1) < 1 / 3 for value in ratio.values())
    for name in ("Switch-Base, 1.25", "Switch-Base, 2.0", "Switch-Base+, 1.0"):
        assert abs(ratio[name] / basis - 1) < 0.1
        assert abs(ratio[name] - 1) < 0.08


def test_speeds_are_in_the_papers_order_where_the_page_does_not_say_otherwise():
    planned = {row.name: one.examples_per_second for row, one in speeds()}
    order = ("T5-Base", "Switch-Base, 1.0", "Switch-Base, 1.25", "Switch-Base, 2.0", "T5-Large")
    found = [planned[name] for name in order]
    assert found == sorted(found, reverse=True)
    for factor in ("1.0", "1.25", "2.0"):
        assert planned[f"MoE-Base, {factor}"] < planned[f"Switch-Base, {factor}"]


@pytest.mark.parametrize("giant", page.GIANTS, ids=lambda giant: giant.name)
def test_the_papers_layout_of_a_giant_fits_its_cores(giant):
    found = ranking.rank(page.step_of(giant.file, giant.bindings), Slice.parse(giant.slice))
    layouts = [choice.layout for choice in found.choices]
    assert giant.layout in layouts
    if "XXL" in giant.name:
        assert set(layouts) == {giant.layout}
    else:
        # Behind meshes that form larger groups, as the page says.
        assert layouts.index(giant.layout) == 3


def test_with_a_larger_batch_switch_c_is_fastest_in_the_papers_layout():
    step = page.step_of(page.LARGER.file, page.LARGER.bindings)
    assert ranking.rank(step, Slice.parse("v3-2048")).choices[0].layout == page.LARGER.layout


def test_every_type_of_chip_has_a_row_with_its_source():
    text = (DOCS / "planned.md").read_text()
    for chip in CHIPS.values():
        assert f"| {chip.name} | {chip.cores} | {chip.devices} |" in text
        assert chip.source in text
