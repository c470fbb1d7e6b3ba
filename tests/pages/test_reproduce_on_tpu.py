import functools
import re
from pathlib import Path

import gin
import pytest

from switch_tf.pages import reproduce_on_tpu as page
from switch_tf.pages.registry import PAGES
from switch_tf.planner.slices import Slice
from switch_tf.reproduce import paper_scale
from switch_tf.reproduce.experiments.paper_arms import ARMS
from switch_tf.reproduce.registry import EXPERIMENTS

DOCS = Path(__file__).parent.parent.parent / "docs"
COSTS = page.Costs()


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


@functools.cache
def text():
    return (DOCS / "reproduce_on_tpu.md").read_text()


def section(name):
    return text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", ["table2", "table3", "table6"])
def test_a_table_of_the_page_is_what_the_planner_says_now(name):
    """The whole page is compared by the next test, in half a minute."""
    for run in paper_scale.runs(name):
        row = re.search(rf"^\| `{paper_scale.file_name(run)}` \|(.*)\|$", text(), re.MULTILINE)
        slice, steps, seconds, hours, chips, _, flags = map(str.strip, row[1].split("|"))
        cost = COSTS.of(run)
        assert slice == cost.estimate.slice.name
        assert steps == f"{cost.steps:,}"
        assert seconds == f"{cost.estimate.seconds + cost.teacher:.3g}"
        assert (hours, chips) == (f"{cost.hours:,.0f}", f"{cost.chip_hours:,.0f}")
        assert flags == " ".join(f"`--gin.{flag}`" for flag in cost.flags)


def test_the_whole_page_is_what_the_planner_says_now():
    """If not: scripts/docs.sh reproduce_on_tpu."""
    assert PAGES["reproduce_on_tpu"].stale(DOCS) == []


def test_every_run_at_the_papers_scale_is_there_once():
    names = {paper_scale.file_name(run) for name in ARMS for run in paper_scale.runs(name)}
    found = re.findall(r"^\| `(\w+\.gin)` \|", text(), re.MULTILINE)
    assert len(found) == len(set(found))
    assert set(found) == names


def test_what_is_told_fits():
    for run in paper_scale.runs("table9"):
        cost = COSTS.of(run)
        assert cost.estimate.fits
        assert cost.estimate.step.sizes.mesh.size == cost.estimate.slice.devices


def test_a_run_with_a_teacher_takes_its_forward_pass_longer():
    runs = {run.name: COSTS.of(run) for run in paper_scale.runs("table6")}
    alone = runs["pre-training T5-Base"]
    for name, cost in runs.items():
        assert (cost.teacher > 0) == name.startswith("distilling")
        if name.startswith("distilling"):
            assert cost.estimate.seconds == alone.estimate.seconds
            # Of a model with as many operations and more: a third of a step, and its dispatch.
            assert 0.2 < cost.teacher / alone.estimate.seconds < 1.0


def test_rows_are_in_the_order_of_claims_per_chip_hour():
    rows = re.findall(r"^\| (\w+\d+) \| (\d+) \| \d+ \| (\d+) \| ([\d,]+) \|", text(), re.MULTILINE)
    assert {name for name, *_ in rows} == ARMS.keys()
    for name, claims, _, _ in rows:
        assert int(claims) == len(EXPERIMENTS[name].claims)
    # The first is the cheapest claim; what costs most is last.
    per_hour = [
        int(claims) / float(hours.replace(",", "")) for _, claims, n, hours in rows if n != "0"
    ]
    assert per_hour[0] == max(per_hour) and per_hour[-1] == min(per_hour)


def test_the_price_is_that_of_the_slices():
    assert f"Dollars are at {Slice.parse('v3-8').chip.dollars:.2f} a chip-hour" in " ".join(
        text().split()
    )
