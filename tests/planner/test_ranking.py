"""Meshes and layouts of a slice, the fastest first; up to sizes that no machine has."""

import functools
import time

import gin
import numpy as np
import pytest

from switch_tf.mesh import Mesh
from switch_tf.pages.planned import step_of
from switch_tf.planner import ranking
from switch_tf.planner.slices import Slice
from tests.planner.test_estimate import paper

planned = functools.cache(step_of)


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def ranked(file, name, *bindings):
    return ranking.rank(planned(file, bindings), Slice.parse(name))


def test_meshes_are_ordered_by_time_and_all_fit():
    found = ranked("switch_base", "v4-32")
    seconds = [choice.estimate.seconds for choice in found.choices]
    assert seconds == sorted(seconds) and len(seconds) > 2
    for choice in found.choices:
        assert choice.estimate.fits
        assert choice.estimate.step.sizes.mesh.size == 16
    assert sum(found.left_out.values()) + len(seconds) == len(
        [*ranking._candidates(16, ranking.LAYOUTS)]
    )


def test_experts_with_data_are_first_for_switch_base():
    assert ranked("switch_base", "v3-32").choices[0].layout == "expert_data"


def test_a_choice_has_the_fewest_parts_that_fit_or_is_made_again():
    (choice,) = (c for c in ranked("switch_base", "v3-32").choices if c.layout == "expert_data")
    sizes = choice.estimate.step.sizes
    assert sizes.microbatches > 1 and not choice.estimate.step.rematerialize


def test_groups_of_the_model_are_as_before():
    step = planned("switch_base", ())
    before = [layer.groups_multiple for layer in step.sizes.model.switch_layers]
    ranking.rank(step, Slice.parse("v3-32"))
    assert [layer.groups_multiple for layer in step.sizes.model.switch_layers] == before == [8] * 12


def test_what_is_left_out_is_told_and_what_is_shown_has_a_row():
    found = ranked("switch_base", "v3-32")
    lines = [*ranking.lines(found, 1000)]
    assert lines[0].startswith("layout") and "chip-hours of 1,000 steps" in lines[0]
    assert len(lines) == 1 + len(found.choices) + 2
    assert lines[-2].startswith("left out: ") and "whose sizes do not divide" in lines[-2]


def test_nothing_fits_what_is_too_small():
    found = ranked("switch_c", "v3-32")
    assert not found.choices and found.left_out["that do not fit"] > 0


def test_meshes_of_sixteen_thousand_cores_are_planned_in_seconds():
    started = time.process_time()
    found = ranked("switch_c", "v3-16384", "BATCH_SIZE=16384")
    assert time.process_time() - started < 30
    (best, *_) = found.choices
    assert best.estimate.step.sizes.mesh.size == 16_384
    assert best.layout == "expert_model_data"
    # 2,048 experts are on as many shards.
    assert best.mesh_shape == "batch:2048,model:8"


def test_the_shards_of_a_batch_on_2048_devices_are_found_within_a_second():
    """What `Mesh.pack` does for all devices of a mesh; those of other hosts are then left out.

    Of the seven features of a packed batch, and of the numbers of a step.
    """
    mesh = Mesh.on_paper("batch:2048", "batch:batch,experts:batch")
    started = time.process_time()
    for _ in range(7):
        places = mesh.global_places(("batch", None), (2048, 512))
    mesh.global_places((None,), (3,))
    assert time.process_time() - started < 1
    assert len(places) == 2048
    rows = np.array([place[0].start for place in places])
    assert (rows == np.arange(2048)).all()


def test_a_dense_model_on_one_core_has_one_layout():
    found = ranking.rank(paper(expert_frequency=0), Slice.parse("v6e-1"))
    assert {choice.mesh_shape for choice in found.choices} <= {"batch:1", "model:1"}
