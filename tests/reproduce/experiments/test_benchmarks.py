import dataclasses
import importlib

import pytest

from switch_tf.commands import main as main_module
from switch_tf.data import registry as tasks
from switch_tf.reproduce import schedulers
from switch_tf.reproduce.experiment import in_order, with_needed
from switch_tf.reproduce.experiments import benchmarks, paper_arms
from switch_tf.reproduce.registry import EXPERIMENTS

EVERY = dict.fromkeys((*benchmarks._PAPER4, *benchmarks._PAPER5))
TASKS = {arm.bindings.get("MIXTURE_OR_TASK_NAME") for arm in paper_arms.ARMS["table5"]} - {None}


def figures(name):
    """The names of the metrics of a task or mixture."""
    found = tasks.find(name)
    if hasattr(found, "tasks"):
        return {"average"} if tasks._averages.get(name) else set()
    names = set()
    for metric in found.metric_fns:
        for targets in (["a"], [["a"]]):
            try:
                names |= metric(targets, ["a"]).keys()
            except (TypeError, AttributeError):
                continue
    return names


@pytest.mark.parametrize("benchmark", EVERY, ids=[benchmark.name for benchmark in EVERY])
def test_the_figure_is_one_that_its_task_reports(benchmark):
    importlib.import_module(f"switch_tf.tasks.{benchmark.module}")
    assert benchmark.figure in figures(benchmark.name)


def test_each_task_of_the_papers_tables_has_its_experiment():
    assert {benchmark.name for benchmark in benchmarks._PAPER5} == TASKS
    names = {f"table4_{b.name}" for b in benchmarks._PAPER4} | {f"table5_{t}" for t in TASKS}
    assert names < EXPERIMENTS.keys()


def test_claims_are_those_that_the_papers_figures_bear_out():
    """With the paper's own figures as measurements of each seed, every claim holds."""
    for name, experiment in EXPERIMENTS.items():
        if experiment.brings_data and not name.startswith("table8"):
            found = {
                model: {metric: [figure - 0.01, figure + 0.01] for metric, figure in of.items()}
                for model, of in experiment.paper.items()
            }
            assert all(claim.rule(found).holds for claim in experiment.claims), name


def test_the_folder_of_the_data_reaches_each_run_and_each_job(tmp_path):
    experiment = EXPERIMENTS["table8_super_glue"]
    assert experiment.brings_data and experiment.data_dir is None
    named = dataclasses.replace(experiment, data_dir=str(tmp_path))
    runs = with_needed(in_order(named.runs(tmp_path, tmp_path)))
    assert {run.bindings["DATA_DIR"] for run in runs} == {str(tmp_path)}
    assert f"--data_dir={tmp_path}" in schedulers.script(named, tmp_path, tmp_path, "slurm")


def test_missing_data_and_data_that_are_not_needed_are_one_line_before_training(tmp_path, capsys):
    def error_of(name, folder):
        with pytest.raises(SystemExit):
            main_module.main(
                ["reproduce", "run", name, f"--data_dir={folder}", f"--output_dir={tmp_path}"]
            )
        return capsys.readouterr().err.splitlines()[-1]

    assert error_of("table1", tmp_path) == (
        "switch-tf: error: 'table1' needs no data of yours: leave out --data_dir"
    )
    message = error_of("table5_squad", tmp_path / "none")
    assert f"DATA_DIR='{tmp_path}/none': no such folder" in message
    message = error_of("table5_squad", tmp_path)
    assert f"{tmp_path}/squad" in message and not list(tmp_path.glob("*/pretrain_seed0"))
