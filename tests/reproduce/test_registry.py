import re
import textwrap
from pathlib import Path

import pytest

from switch_tf.errors import UserError
from switch_tf.reproduce import registry
from switch_tf.reproduce.experiment import Arm, Experiment
from switch_tf.reproduce.metrics import Metric, evaluated
from switch_tf.reproduce.registry import EXPERIMENTS
from switch_tf.reproduce.verdict import ahead

CONTRIBUTING = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()

each = pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)


@each
def test_every_run_has_a_folder_and_good_gin_of_its_own(experiment, tmp_path):
    runs = [run for found in experiment.runs(tmp_path, {}).values() for run in found]
    assert len({run.model_dir for run in runs}) == len(runs)
    assert all(run.train_steps > 0 for run in runs)


@each
def test_what_an_arm_starts_from_is_run_before_it(experiment):
    for position, arm in enumerate(experiment.arms):
        assert arm.starts_from is None or arm.starts_from in experiment.arms[:position]


@each
def test_the_papers_figures_are_of_its_models_and_metrics(experiment):
    assert set(experiment.paper) <= {arm.model for arm in experiment.arms}
    names = {metric.name for metric in experiment.metrics}
    assert all(set(figures) <= names for figures in experiment.paper.values())


def test_an_unknown_experiment_is_refused_with_the_nearest():
    assert registry.find("quickstart") is EXPERIMENTS["quickstart"]
    message = "^no experiment 'quikstart'; nearest: quickstart, quickstart_long; switch-tf reprod"
    with pytest.raises(UserError, match=message):
        registry.find("quikstart")


def test_the_experiment_that_contributing_shows_is_short_and_runs_good_gin(tmp_path):
    (text,) = re.findall(r"^  ```\n(.*?)^  ```", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    code = textwrap.dedent(text)
    assert len(code.splitlines()) <= 15
    names = {"Arm": Arm, "Experiment": Experiment, "Metric": Metric}
    exec(code, names | {"ahead": ahead, "evaluated": evaluated}, names)
    dtypes = {
        arm.model: [(run.settings.get("Router.dtype"), run.settings["SEED"]) for run in runs]
        for arm, runs in names["TABLE2"].runs(tmp_path, {}).items()
    }
    assert dtypes == {
        "selective": [(None, seed) for seed in range(3)],
        "bfloat16": [("bfloat16", seed) for seed in range(3)],
    }
