import json
import os
import signal
import sys
import threading
import time

import pytest

from switch_tf.errors import Interruption, UserError
from switch_tf.reproduce import sittings
from switch_tf.reproduce.training_run import TrainingRun
from tests.reproduce import logs, processes

FILES = ("models/t5_tiny.gin", "layouts/data.gin", "tables/quickstart.gin")


def make_run(folder, name="a run", needs=(), **macros):
    given = {"TRAIN_STEPS": 10} | macros
    return TrainingRun(
        name, folder / name / "run", FILES, given, folder / f"{name}.json", needs=needs
    )


def log(run):
    logs.write(run, {}, logs.evaluation(10, "t", nlp=-1.0))


@pytest.fixture
def child(monkeypatch):
    """Puts a function of the MODEL_DIR, which gives a status, in the place of child processes."""

    def replace(function):
        def start(command, output, core):
            model_dir = command[-1].partition("=")[2].strip("'")
            return processes.Ended(function(model_dir))

        monkeypatch.setattr(sittings, "_start", start)

    return replace


def test_a_run_that_is_done_leaves_its_result_and_how_long_it_took(tmp_path, child):
    run, seen, ended = make_run(tmp_path), [], []
    child(lambda model_dir: log(run) or 0)
    sittings.train([run], watch=lambda active: seen.append(list(active)), ended=ended.append)
    assert run.result().sittings == run.sittings()
    assert seen[-1] == [run] and ended == [run]
    (sitting,) = run.sittings()
    assert sitting["at_once"] == 1 and sitting["cores"] and sitting["others"] >= 0
    assert json.loads((run.model_dir / "settings.json").read_text())["SEED"] == 0
    assert (run.model_dir / "log.txt").read_text().startswith("$ ")


def test_runs_wait_for_those_whose_checkpoints_they_need(tmp_path, child):
    first = make_run(tmp_path, "first")
    tuned = make_run(tmp_path, "tuned", needs=(first,))
    other = make_run(tmp_path, "other")
    started, runs = [], {str(run.model_dir): run for run in (first, tuned, other)}

    def train(model_dir):
        started.append(runs[model_dir].name)
        log(runs[model_dir])
        return 0

    child(train)
    sittings.train([first, tuned, other], at_once=2)
    assert started[:2] == ["first", "other"] and started[2:] == ["tuned"]


def test_runs_side_by_side_have_a_core_each(tmp_path, monkeypatch):
    code = "import os; print(sorted(os.sched_getaffinity(0)), flush=True)"
    monkeypatch.setattr(TrainingRun, "command", [sys.executable, "-c", code])
    monkeypatch.setattr(TrainingRun, "is_trained", lambda run: True)
    monkeypatch.setattr(TrainingRun, "keep", lambda run: None)
    runs = [make_run(tmp_path, name) for name in ("a", "b")]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("this machine has one core")
    sittings.train(runs, at_once=2)
    found = [(run.model_dir / "log.txt").read_text().splitlines()[1] for run in runs]
    assert found == [f"[{cores[0]}]", f"[{cores[1]}]"]


@pytest.mark.parametrize("status", [0, 2])
def test_a_run_that_does_not_end_is_told_with_its_log(tmp_path, child, status):
    child(lambda model_dir: status)
    with pytest.raises(UserError, match=rf"^a run failed with status {status}: .*run/log.txt; "):
        sittings.train([make_run(tmp_path)])


def test_the_end_of_a_traceback_is_told_where_there_is_no_error_of_ours(tmp_path, child):
    run = make_run(tmp_path)

    def fail(model_dir):
        with open(run.paths.log, "a") as output:
            output.write("Traceback (most recent call last):\nKeyError: 'x'\n\n")
        return 1

    child(fail)
    with pytest.raises(UserError, match="^a run failed with status 1: 'KeyError: 'x''; all output"):
        sittings.train([run])


def test_after_a_failure_no_further_run_starts_and_others_go_on_to_their_end(tmp_path, child):
    runs = {name: make_run(tmp_path, name) for name in ("bad", "good", "later")}
    started = []

    def train(model_dir):
        started.append(model_dir)
        if "bad" in model_dir:
            return 1
        log(runs["good"])
        return 0

    child(train)
    with pytest.raises(UserError, match="^bad failed with status 1"):
        sittings.train(list(runs.values()), at_once=2)
    assert len(started) == 2 and runs["good"].is_done()


def test_the_error_of_a_run_is_told_and_not_only_logged(tmp_path):
    with pytest.raises(
        UserError, match="^a run failed with status 2: BATCH_SIZE=7 is not divisible"
    ):
        sittings.train([make_run(tmp_path, BATCH_SIZE=7)])


def test_a_loss_that_is_not_finite_is_a_result(tmp_path, child):
    run = make_run(tmp_path)

    def diverge(model_dir):
        logs.write(run, {}, logs.evaluation(5, "t", nlp=-4.0))
        with open(run.paths.log, "a") as output:
            output.write("switch-tf: error: loss is nan at step 7; first non-finite value: x\n")
        return 2

    child(diverge)
    sittings.train([run])
    assert run.is_done() and run.result().diverged_at == 7


def test_each_sitting_of_a_run_is_kept(tmp_path, child):
    run = make_run(tmp_path)
    child(lambda model_dir: 143)
    for number in (1, 2):
        with pytest.raises(Interruption, match="SIGTERM"):
            sittings.train([run])
        assert len(run.sittings()) == number


@pytest.mark.parametrize(
    "status, forwarded, name, interrupted",
    [
        (130, signal.SIGINT, "SIGINT", 130),
        (143, signal.SIGTERM, "SIGTERM", 143),
        (143, signal.SIGHUP, "SIGHUP", 129),
        # The run alone got it.
        (143, None, "SIGTERM", 143),
    ],
)
def test_an_interrupted_run_says_itself_what_it_kept(
    tmp_path, child, status, forwarded, name, interrupted
):
    run = make_run(tmp_path)

    def interrupt(model_dir):
        with open(run.model_dir / "log.txt", "a") as output:
            output.write("step 1\nswitch-tf: interrupted by SIGTERM: saved step 2; rerun it\n")
        if forwarded:
            os.kill(os.getpid(), forwarded)
        return status

    child(interrupt)
    with pytest.raises(Interruption) as stop:
        sittings.train([run, make_run(tmp_path, "later")])
    assert str(stop.value) == f"interrupted by {name}: a run: saved step 2; rerun it"
    assert stop.value.status == interrupted
    # What an earlier process said is not taken for this one's.
    child(lambda model_dir: os.kill(os.getpid(), signal.SIGTERM) or 0)
    with pytest.raises(Interruption, match="SIGTERM: a run: ended with status 0, its output"):
        sittings.train([run])


def test_a_signal_is_told_at_once_and_handed_once_to_every_child(tmp_path, monkeypatch, capfd):
    # A child says that it is ready, takes half a second to save, and counts what it gets.
    code = (
        "import signal, sys, time\n"
        "got = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: got.append(print('signal', flush=True)))\n"
        "print('ready', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "sys.exit(143)\n"
    )
    monkeypatch.setattr(sittings, "_PAUSE", 0.05)
    monkeypatch.setattr(TrainingRun, "command", [sys.executable, "-c", code])
    before = signal.getsignal(signal.SIGTERM)
    runs = [make_run(tmp_path, name) for name in ("a", "b")]

    def log_of(run):
        path = run.model_dir / "log.txt"
        return path.read_text().splitlines() if path.exists() else []

    def send():
        while not all("ready" in log_of(run) for run in runs):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Interruption) as stop:
        sittings.train(runs, at_once=2)
    sender.join()
    ended = "{0}: ended with status 143, its output in {1}/{0}/run/log.txt"
    both = [ended.format(name, tmp_path) for name in ("a", "b")]
    assert str(stop.value) in [
        f"interrupted by SIGTERM: {'; '.join(order)}; rerun the command to resume"
        for order in (both, both[::-1])
    ]
    told = capfd.readouterr().err
    assert told.count("SIGTERM: ends after this step of each run, and saves; again to end") == 1
    assert [log_of(run).count("signal") for run in runs] == [1, 1]
    assert [len(run.sittings()) for run in runs] == [1, 1]
    assert signal.getsignal(signal.SIGTERM) is before
