import dataclasses
import itertools
import re
import textwrap
from pathlib import Path

import pytest

from switch_tf.errors import UserError
from switch_tf.reproduce import registry
from switch_tf.reproduce.experiment import Arm, Experiment
from switch_tf.reproduce.metrics import Metric, evaluated
from switch_tf.reproduce.registry import EXPERIMENTS
from switch_tf.reproduce.verdict import Claim, ahead

CONTRIBUTING = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()

EVERY = [*EXPERIMENTS.values(), *(v for e in EXPERIMENTS.values() for v in e.variants.values())]
each = pytest.mark.parametrize("experiment", EVERY, ids=[e.name for e in EVERY])


@each
def test_every_run_has_good_gin(experiment, tmp_path):
    runs = [run for found in experiment.runs(tmp_path, tmp_path).values() for run in found]
    assert runs and all(run.train_steps > 0 for run in runs)


@each
def test_each_claim_is_judged_without_measurements_as_undecided(experiment):
    assert experiment.claims
    for claim in experiment.claims:
        assert claim.text and claim.refuted_by
        assert claim.rule({arm.model: {} for arm in experiment.arms}).holds is None


def test_runs_that_share_a_folder_are_the_same_run(tmp_path):
    found = {}
    for experiment in EVERY:
        place = tmp_path / (experiment.folder or experiment.name)
        for run in itertools.chain(*experiment.runs(place, place).values()):
            same = found.setdefault(run.model_dir, run)
            assert (run.gin_files, run.binding_strings) == (same.gin_files, same.binding_strings)
    assert len(found) < sum(len(arm.seeds or (0,)) for e in EVERY for arm in e.arms)


@each
def test_the_papers_figures_are_of_its_models_and_metrics(experiment):
    assert set(experiment.paper) <= {arm.model for arm in experiment.arms}
    names = {metric.name for metric in experiment.metrics}
    assert all(set(figures) <= names for figures in experiment.paper.values())


def test_an_unknown_experiment_is_refused_with_the_nearest():
    assert registry.find("quickstart") is EXPERIMENTS["quickstart"]
    message = "^no experiment 'quikstart'; nearest: quickstart; switch-tf reproduce list says"
    with pytest.raises(UserError, match=message):
        registry.find("quikstart")


def test_a_variant_is_found_by_its_flag_and_no_other_experiment_has_it(monkeypatch):
    long = registry.find("quickstart", "long")
    assert long is EXPERIMENTS["quickstart"].variants["long"] and long.name == "quickstart_long"
    monkeypatch.setitem(EXPERIMENTS, "other", dataclasses.replace(long, name="other"))
    with pytest.raises(UserError, match="^'other' has no --long; it belongs to quickstart$"):
        registry.find("other", "long")


def test_the_experiment_that_contributing_shows_is_short_and_runs_good_gin(tmp_path):
    (text,) = re.findall(r"^  ```\n(.*?)^  ```", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    code = textwrap.dedent(text)
    assert len(code.splitlines()) <= 15
    names = {"Arm": Arm, "Claim": Claim, "Experiment": Experiment, "Metric": Metric}
    exec(code, names | {"ahead": ahead, "evaluated": evaluated}, names)
    dtypes = {
        arm.model: [(run.settings.get("Router.dtype"), run.settings["SEED"]) for run in runs]
        for arm, runs in names["TABLE2"].runs(tmp_path, tmp_path).items()
    }
    assert dtypes == {
        "selective": [(None, seed) for seed in range(3)],
        "bfloat16": [("bfloat16", seed) for seed in range(3)],
    }
