from pathlib import Path

import gin
import pytest

from switch_tf.errors import UserError
from switch_tf.mesh import Mesh
from switch_tf.reproduce import paper_scale, paper_slices
from switch_tf.reproduce.paper_slices import SIZES, Costs

COSTS = Costs()
EXPERIMENTS = ("table1", "table6", "table9", "figure1", "figure12")
# What may differ from the paper's run.
FITTING = {
    *("MESH_SHAPE", "GROUPS_MULTIPLE", "TrainStep.microbatches"),
    "TransformerEncoderDecoder.rematerialize",
}


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def runs():
    """Those of every model and size, and some that are fine-tuned and distilled."""
    found = {run.model_dir: run for name in EXPERIMENTS for run in paper_scale.runs(name)}
    return list(found.values())


def test_every_run_fits_a_slice_that_google_has_with_the_settings_that_it_is_given():
    for run in runs():
        cost = COSTS.of(run)
        step, on = cost.estimate.step, cost.estimate.slice
        assert cost.estimate.fits and on.chip.name == "v3" and on.devices in SIZES
        given = cost.run.bindings
        assert step.sizes.mesh.size == on.devices == Mesh.on_paper(given["MESH_SHAPE"]).size
        assert given.get("TrainStep.microbatches", 1) == step.sizes.microbatches
        assert given.get("TransformerEncoderDecoder.rematerialize", False) == step.rematerialize
        assert Path(cost.run.gin_files[1]).stem == cost.layout
        settings = paper_slices._settings(cost.run)
        ways = step.sizes.mesh.ways("batch")
        if "NUM_EXPERTS" in settings:
            assert settings["GROUPS_MULTIPLE"] % ways == 0
        # Each part of a batch, and an evaluation's, is of whole rows of each device.
        batch = settings["BATCH_SIZE"]
        assert step.sizes.data.batch_size == batch
        assert step.sizes.data.task_feature_lengths == settings["TASK_FEATURE_LENGTHS"]
        step.sizes.data.check_batch(step.sizes.mesh)
        assert batch // step.sizes.microbatches % ways == 0
        assert settings.get("Evaluation.batch_size", ways) % ways == 0


def test_nothing_of_the_papers_run_changes_but_how_it_fits():
    for run in runs():
        planned = COSTS.of(run).run
        changed = {
            name
            for name in run.bindings.keys() | planned.bindings.keys()
            if run.bindings.get(name) != planned.bindings.get(name)
        }
        assert changed <= FITTING
        assert (run.model_dir, run.needs) == (planned.model_dir, planned.needs)
        assert run.gin_files[::2] == planned.gin_files[::2]


def test_a_run_of_more_or_fewer_cores_than_a_slice_has_is_on_the_next_larger():
    cores = {2: 8, 4: 8, 8: 8, 16: 32, 32: 32}
    for run in paper_scale.runs("figure1")[1:]:
        own = Mesh.on_paper(run.bindings["MESH_SHAPE"]).size
        assert COSTS.of(run).estimate.slice.devices == cores[own]


def test_a_run_that_fits_no_slice_is_one_line(monkeypatch):
    monkeypatch.setattr(paper_slices, "SIZES", (8,))
    (run,) = (run for run in paper_scale.runs("table9") if "XXL" in run.name and "T5" in run.name)
    with pytest.raises(UserError, match="^pre-training T5-XXL fits no slice of v3: "):
        Costs().of(run)
