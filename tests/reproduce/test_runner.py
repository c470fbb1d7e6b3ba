"""An experiment of runs that do not train: what is run, in which order, and what is made of it."""

import dataclasses
import json
import os
import re
import shutil
import signal

import matplotlib.figure
import pytest

from switch_tf import storage
from switch_tf.commands import main as main_module
from switch_tf.errors import UserError
from switch_tf.reproduce import runner, sittings
from switch_tf.reproduce.experiment import Arm, Experiment
from switch_tf.reproduce.machine_load import Load
from switch_tf.reproduce.metrics import Metric, evaluated
from switch_tf.reproduce.registry import EXPERIMENTS
from switch_tf.reproduce.verdict import Claim, ahead
from tests.reproduce import logs, processes

TASK = {"MIXTURE_OR_TASK_NAME": "toy_copy", "MIXTURE_OR_TASK_MODULE": "tests.toy_task"}
RUN = ("layouts/data.gin", "runs/pretrain.gin")
# An experiment, with its line in the registry, takes no more than this.
DENSE = Arm("dense", ("models/t5_tiny.gin", *RUN), TASK, seeds=(0, 1))
SPARSE = Arm("Switch, 8", ("models/switch_tiny.gin", *RUN), TASK, seeds=(0, 1))
TUNED = Arm("dense", ("models/t5_tiny.gin", *RUN), TASK, starts_from=DENSE)
NLP = Metric("NLP", evaluated("toy_copy", "nlp"), unit="nats")
TOY = Experiment(
    name="toy",
    reproduces="Figure 0",
    arms=(DENSE, SPARSE, TUNED),
    metrics=(NLP,),
    paper={"dense": {"NLP": -1.5}},
    claims=(Claim("experts help", "dense ahead", ahead("Switch, 8", "dense", NLP)),),
)

FACTS = {"parameters": 10, "versions": {"commit": "abc"}}
FIGURES = {
    "dense/pretrain_seed0": -4.0,
    "dense/pretrain_seed1": -4.5,
    "switch_8/pretrain_seed0": -3.0,
    "switch_8/pretrain_seed1": -3.25,
    "dense/finetune": -1.0,
}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Folders of the runs that were started, in order; a run logs its last step's figures."""
    started = []

    def start(command, output, core):
        (model_dir,) = [a.partition("=")[2].strip("'") for a in command if "MODEL_DIR" in a]
        name = model_dir.removeprefix(f"{tmp_path}/")
        started.append(name)
        if name in FIGURES:
            task = "toy_copy" if "pretrain" in name else "another"
            last = logs.evaluation(524288, task, nlp=FIGURES[name])
            logs.write_folder(tmp_path / name, FACTS, last)
        return processes.Ended(0 if name in FIGURES else 1)

    monkeypatch.setattr(sittings, "_start", start)
    return started


def run(experiment, folder):
    return runner.run(experiment, folder, folder)


def test_the_first_seed_of_each_arm_runs_first_and_nothing_twice(trained, tmp_path, capsys):
    run(TOY, tmp_path)
    assert trained == [
        "dense/pretrain_seed0",
        "switch_8/pretrain_seed0",
        "dense/pretrain_seed1",
        "switch_8/pretrain_seed1",
        "dense/finetune",
    ]
    capsys.readouterr()
    run(TOY, tmp_path)
    assert len(trained) == 5
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:6]] == ["done"] * 5


def test_a_run_that_failed_is_started_again_and_those_before_it_are_not(
    trained, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.delitem(FIGURES, "switch_8/pretrain_seed0")
        with pytest.raises(UserError, match="^pre-training Switch, 8, seed 0 failed"):
            run(TOY, tmp_path)
    run(TOY, tmp_path)
    assert trained[:3] == [
        "dense/pretrain_seed0",
        "switch_8/pretrain_seed0",
        "switch_8/pretrain_seed0",
    ]


@pytest.mark.parametrize("forwarded", [signal.SIGTERM, None])
def test_an_interrupted_run_ends_the_command_with_its_status_and_starts_no_further_one(
    trained, tmp_path, monkeypatch, capsys, forwarded
):
    start = sittings._start

    def interrupted(*args):
        start(*args)
        if forwarded:
            os.kill(os.getpid(), forwarded)
        return processes.Ended(143)

    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    monkeypatch.setattr(sittings, "_start", interrupted)
    with pytest.raises(SystemExit) as stop:
        main_module.main(["reproduce", "run", "toy", f"--output_dir={tmp_path}"])
    assert stop.value.code == 143
    assert trained == ["dense/pretrain_seed0"]
    told = capsys.readouterr().err.removeprefix("starting TensorFlow\n")
    assert told.startswith("switch-tf: interrupted by SIGTERM: pre-training dense, seed 0: ended")
    assert told.endswith("; rerun the command to resume\n") and told.count("\n") == 1


def test_only_runs_that_start_from_no_other_need_the_vocabulary_of_their_task(
    trained, tmp_path, monkeypatch
):
    given = []
    prepare = runner.registry.prepare
    monkeypatch.setattr(
        runner.registry, "prepare", lambda *args: (given.append(args[2]), prepare(*args))
    )
    other = dataclasses.replace(
        TUNED, bindings=TASK | {"MIXTURE_OR_TASK_NAME": "toy_copy_too"}, starts_from=DENSE
    )
    run(dataclasses.replace(TOY, arms=(DENSE, SPARSE, other)), tmp_path)
    assert given == [True, False]


def test_fine_tuning_starts_from_the_first_run_of_its_arm(tmp_path):
    *_, (finetune,) = TOY.runs(tmp_path, tmp_path).values()
    start = finetune.bindings["INITIAL_CHECKPOINT_PATH"]
    assert start == str(tmp_path / "dense" / "pretrain_seed0")
    assert "SEED" not in finetune.bindings


def test_the_report_sets_what_was_measured_beside_the_paper(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sittings.LoadMeter, "read", lambda self: Load(0.0, 2))
    report = run(TOY, tmp_path)
    assert report.table().splitlines() == [
        "|           | NLP                                | the paper |",
        "| --------- | ---------------------------------- | --------- |",
        "| dense     | -4.250 (-4.500 to -4.000, 2 seeds) | -1.500    |",
        "| Switch, 8 | -3.125 (-3.250 to -3.000, 2 seeds) |           |",
    ]
    assert report.verdicts == [
        "Figure 0",
        "experts help: supports the claim: the mean over seeds of Switch, 8 is 1.125 nats ahead of "
        "dense, 95% interval 0.750 to 1.500",
    ]
    assert report.write(tmp_path) == ["report.md", "report.json"]
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["measured"]["Switch, 8"]["NLP"] == [-3.0, -3.25]
    tuned = data["runs"]["fine-tuning dense"]
    assert tuned["facts"] == FACTS
    assert {"date", "processor", "cores"} <= set(tuned["environment"])
    assert data["claims"][0]["holds"] is True


def test_the_report_names_the_runs_that_others_slowed(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sittings.LoadMeter, "read", lambda self: Load(0.1, 2))
    assert "Other processes" not in run(TOY, tmp_path).table()
    slowed = TOY.runs(tmp_path, tmp_path / "runs")[SPARSE][1]
    logs.sat(slowed, 0.5)
    slowed.keep()
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    capsys.readouterr()
    main_module.main(["reproduce", "run", "toy", f"--output_dir={tmp_path}"])
    remark = (
        "Other processes used a part of the machine, so tokens/s are too low and times too long: "
        "25% in pre-training Switch, 8, seed 1.\n"
    )
    assert f" |\n\n{remark}\nFigure 0" in (tmp_path / "report.md").read_text()
    assert f" |\n\n{remark}\nFigure 0" in capsys.readouterr().out


def test_an_experiment_of_the_registry_is_run_by_its_name(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    main_module.main(["reproduce", "run", "toy", f"--output_dir={tmp_path}"])
    assert f"\nwritten to {tmp_path}: report.md, report.json\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main_module.main(["reproduce", "run", "toy", "--long"])
    error = "switch-tf: error: 'toy' has no --long; it belongs to quickstart\n"
    assert capsys.readouterr().err == error


def test_experiments_are_listed_with_what_they_repeat_their_runs_and_minutes(monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    main_module.main(["reproduce", "list"])
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "what", "it", "repeats", "runs", "minutes", "claim"]
    cells = [re.split(" {2,}", row) for row in rows]
    assert [row[0] for row in cells[:2]] == ["quickstart", "quickstart --long"]
    assert cells[-1][0] == "toy"
    assert cells[-1][1:] == ["Figure 0", "5", "5", "experts help"]


def test_a_report_is_made_again_of_finished_runs_alone(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    report = ["reproduce", "report", "toy", f"--output_dir={tmp_path}"]
    with pytest.raises(SystemExit):
        main_module.main(report)
    told = f"5 of 5 runs in {tmp_path} are not done, such as pre-training dense, seed 0: run them"
    assert told in capsys.readouterr().err
    run(TOY, tmp_path)
    written = trained.copy()
    main_module.main(report)
    assert f"\nwritten to {tmp_path}: report.md, report.json\n" in capsys.readouterr().out
    assert trained == written


def test_an_experiment_without_an_action_is_told_what_to_write(capsys):
    with pytest.raises(SystemExit):
        main_module.main(["reproduce", "quickstart"])
    told = "say what to do with 'quickstart': switch-tf reproduce run quickstart\n"
    assert capsys.readouterr().err == f"switch-tf: error: {told}"


def test_help_says_which_experiment_has_a_flag(monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    with pytest.raises(SystemExit):
        main_module.main(["reproduce", "run", "--help"])
    told = capsys.readouterr().out
    assert "\n  quickstart\n  table1\n" in told
    assert re.search(r"\n  --long +for quickstart: more steps", told)


@pytest.mark.parametrize("name", ["switch 8", "Switch, 8"])
def test_arms_whose_runs_would_share_a_folder_are_refused(name):
    twin = Arm(name, SPARSE.gin_files, TASK, seeds=(1,))
    message = (
        f"^experiment 'toy': 'pre-training Switch, 8, seed 1' and 'pre-training {name}, seed 1' "
        "share the folder switch_8/pretrain_seed1: give models names that differ in letters or "
    )
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TOY, arms=(SPARSE, twin))


def test_a_remote_folder_is_refused_before_any_run(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    with pytest.raises(SystemExit):
        main_module.main(["reproduce", "run", "toy", "--output_dir=gs://bucket/toy"])
    told = "--output_dir='gs://bucket/toy': give a local path; this one is remote"
    assert told in capsys.readouterr().err
    assert trained == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["report.md", "report.png", "report.json"])
def test_a_file_of_the_report_that_cannot_be_written_stays_as_it_was(
    trained, tmp_path, monkeypatch, name
):
    report = run(TOY, tmp_path)
    report = dataclasses.replace(report, figure=matplotlib.figure.Figure())
    assert report.write(tmp_path) == ["report.md", "report.png", "report.json"]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    before, rename = (tmp_path / name).read_bytes(), storage._LOCAL.rename

    def fail(source, target, overwrite):
        if target.name == name:
            raise OSError("full")
        rename(source, target, overwrite)

    monkeypatch.setattr(storage._LOCAL, "rename", fail)
    other = matplotlib.figure.Figure(figsize=(1, 1))
    with pytest.raises(OSError, match="full"):
        dataclasses.replace(report, rows=[["a"]], facts={}, figure=other).write(tmp_path)
    assert (tmp_path / name).read_bytes() == before


def test_a_task_that_is_not_there_is_told_before_any_run(trained, tmp_path):
    lost = Arm("dense", ("models/t5_tiny.gin", *RUN), TASK | {"MIXTURE_OR_TASK_NAME": "toy_cpy"})
    experiment = Experiment("lost", "", (lost,), (), {}, TOY.claims)
    with pytest.raises(UserError, match="no task or mixture 'toy_cpy' is registered; nearest"):
        run(experiment, tmp_path)
    assert trained == []


SHARED = dataclasses.replace(TOY, name="shared", folder="mini")


def test_experiments_of_one_folder_share_runs_and_keep_a_page_and_every_result(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(EXPERIMENTS, "shared", SHARED)
    other = dataclasses.replace(SHARED, name="other", arms=(DENSE,), claims=TOY.claims)
    monkeypatch.setitem(EXPERIMENTS, "other", other)
    flags = [f"--output_dir={tmp_path}", f"--results_dir={tmp_path / 'kept'}"]
    main_module.main(["reproduce", "run", "shared", *flags])
    assert len(trained) == 5
    main_module.main(["reproduce", "run", "other", *flags])
    assert len(trained) == 5
    assert f"all results: {tmp_path / 'kept.md'}\n" in capsys.readouterr().out
    page = (tmp_path / "kept" / "shared.md").read_text()
    assert page.startswith("# Figure 0\n") and "| experts help | **supports the claim** |" in page
    assert "| dense | 2 of 2 |" in page
    kept = sorted(str(p.relative_to(tmp_path / "kept")) for p in tmp_path.glob("kept/runs/*/*"))
    assert len(kept) == 5 and "runs/dense/finetune.json" in kept
    summary = (tmp_path / "kept.md").read_text()
    assert "| [shared](kept/shared.md) | experts help | **supports the claim** |" in summary
    assert "| table1 | " in summary and "| not run yet |" in summary
    # Whose data few have.
    assert "table5_glue" not in summary


def test_results_stay_when_the_runs_are_removed_and_a_run_that_needs_one_makes_it_again(
    trained, tmp_path
):
    folder, kept = tmp_path, tmp_path / "kept"
    first = dataclasses.replace(SHARED, arms=(DENSE, SPARSE))
    runner.run(first, folder, kept)
    for name in ("dense", "switch_8"):
        shutil.rmtree(folder / name)
    trained.clear()
    runner.run(first, folder, kept)
    assert trained == []
    runner.run(SHARED, folder, kept)
    assert trained == ["dense/pretrain_seed0", "dense/finetune"]


def test_a_report_of_shared_runs_can_be_made_before_all_are_done(trained, tmp_path):
    runner.run(dataclasses.replace(SHARED, arms=(DENSE,)), tmp_path, tmp_path)
    report = runner.report(SHARED, tmp_path, tmp_path)
    assert "| Switch, 8 | 0 of 2 |" in report.page
    assert report.verdicts[1].startswith("experts help: not run yet: NLP needs two")


def test_a_seed_is_fine_tuned_from_the_same_seed(tmp_path):
    tuned = Arm("dense", TUNED.gin_files, TASK, seeds=(1, 5), starts_from=DENSE)
    same, first = (run.needs[0].model_dir.name for run in tuned.runs(tmp_path, tmp_path))
    assert (same, first) == ("pretrain_seed1", "pretrain_seed0")


def test_a_student_names_its_teacher_and_needs_it(tmp_path):
    student = Arm("student", ("models/t5_tiny.gin",), seeds=(1,), teacher=SPARSE)
    (run,) = student.runs(tmp_path, tmp_path)
    teacher = tmp_path / "switch_8" / "pretrain_seed1"
    assert run.bindings["TEACHER_PATH"] == str(teacher)
    assert [needed.model_dir for needed in run.needs] == [teacher]
    assert run.name == "distilling student, seed 1"


def test_a_job_trains_one_run_with_what_it_needs_before_it(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "shared", SHARED)
    flags = [f"--output_dir={tmp_path}", f"--results_dir={tmp_path / 'kept'}"]
    for number in (1, 1):
        main_module.main(["reproduce", "run", "shared", f"--only={number}", *flags])
    assert trained == ["switch_8/pretrain_seed0"]
    assert "pre-training Switch, 8, seed 0: done before\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main_module.main(["reproduce", "run", "shared", "--only=5", *flags])
    assert "--only=5: 'shared' has the runs 0 to 4" in capsys.readouterr().err


def test_all_results_are_on_one_page_that_needs_nothing_else(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(EXPERIMENTS, "shared", dataclasses.replace(SHARED, pretraining="toy_copy"))
    flags = [f"--output_dir={tmp_path}", f"--results_dir={tmp_path / 'kept'}"]
    with pytest.raises(SystemExit):
        main_module.main(["reproduce", "report", "--html", *flags])
    assert "kept has no results: run an experiment first\n" in capsys.readouterr().err
    main_module.main(["reproduce", "run", "shared", *flags])
    main_module.main(["reproduce", "report", "--html", *flags])
    page = (tmp_path / "kept.html").read_text()
    assert '<span class="yes">supports the claim</span> experts help' in page
    assert "src=" not in page and "%" + "DATA%" not in page
    (data,) = re.findall(r'type="application/json">(.*?)</script>', page)
    runs = json.loads(data)["shared"]
    assert {(run["model"], run["seed"], run["nlp"][-1]) for run in runs} == {
        ("dense", 0, -4.0),
        ("dense", 1, -4.5),
        ("Switch, 8", 0, -3.0),
        ("Switch, 8", 1, -3.25),
    }
    for wrong in (["reproduce", "report", "shared", "--html"], ["reproduce", "report"]):
        with pytest.raises(SystemExit):
            main_module.main([*wrong, *flags])
