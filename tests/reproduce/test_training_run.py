import json
import os
import signal
import sys
import threading

import pytest

from switch_tf import storage
from switch_tf.errors import Interruption, UserError
from switch_tf.reproduce import training_run
from switch_tf.reproduce.training_run import TrainingRun

FILES = ("models/switch_tiny.gin", "layouts/expert_data.gin", "tables/quickstart.gin")


def make_run(folder, **macros):
    return TrainingRun("a run", folder / "run", FILES, {"TRAIN_STEPS": 10} | macros)


def log(run, step):
    run.model_dir.mkdir(parents=True, exist_ok=True)
    record = {"step": step, "kind": "evaluation", "task": "t", "nlp": -1.0}
    (run.model_dir / "metrics.jsonl").write_text(json.dumps(record) + "\n")


@pytest.fixture
def child(monkeypatch):
    """Puts a function of the command in the place of the child process."""

    def replace(function):
        monkeypatch.setattr(training_run, "_run", lambda command, output, watch: function(command))

    return replace


def test_its_command_is_what_a_user_would_type(tmp_path, child):
    commands = []
    run = make_run(tmp_path, DTYPE="bfloat16")

    def train(command):
        commands.append(command)
        log(run, 10)
        return 0, None

    child(train)
    run.run()
    (command,) = commands
    assert command[3:] == [
        "train",
        *(f"--gin_file={name}" for name in FILES),
        "--gin.TRAIN_STEPS=10",
        "--gin.DTYPE='bfloat16'",
        f"--gin.MODEL_DIR='{run.model_dir}'",
    ]
    assert (run.model_dir / "log.txt").read_text().startswith("$ ")
    assert run.settings["NUM_EXPERTS"] == 8


def test_what_is_done_is_not_run_again(tmp_path, child):
    run = make_run(tmp_path)
    log(run, 10)
    child(lambda command: pytest.fail("it was run again"))
    run.run()
    assert not storage.exists(run.model_dir / "sittings.jsonl")


def test_a_folder_of_other_settings_is_not_taken_for_this_run(tmp_path, child):
    def train(command):
        log(run, 10)
        return 0, None

    child(train)
    run = make_run(tmp_path, SEED=0)
    run.run()
    with pytest.raises(UserError, match="was made with SEED=0, but this run has 1.*--output_dir"):
        make_run(tmp_path, SEED=1).run()
    make_run(tmp_path, SEED=0, TRAIN_STEPS=5).run()


def test_what_is_not_at_its_last_step_goes_on(tmp_path, child):
    run = make_run(tmp_path)
    log(run, 9)
    assert not run.is_done()

    def train(command):
        log(run, 10)
        return 0, None

    child(train)
    run.run()
    assert run.is_done()


@pytest.mark.parametrize("status", [0, 2])
def test_a_run_that_does_not_end_is_told_with_its_log(tmp_path, child, status):
    run = make_run(tmp_path)
    child(lambda command: (status, None))
    with pytest.raises(UserError, match=rf"^a run failed with status {status}: .*run/log.txt; "):
        run.run()


def test_the_error_of_a_run_is_told_and_not_only_logged(tmp_path):
    run = make_run(tmp_path, BATCH_SIZE=7)
    with pytest.raises(
        UserError, match="^a run failed with status 2: BATCH_SIZE=7 is not divisible"
    ):
        run.run()


def test_each_sitting_of_a_run_is_kept(tmp_path, child):
    run = make_run(tmp_path)
    child(lambda command: (143, signal.SIGTERM))
    for number in (1, 2):
        with pytest.raises(Interruption, match="SIGTERM"):
            run.run()
        assert len(run.sittings()) == number
    assert all(s["seconds"] >= 0 and s["others"] >= 0 and s["cores"] for s in run.sittings())


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

    def train(command):
        with open(run.model_dir / "log.txt", "a") as log:
            log.write("step 1\nswitch-tf: interrupted by SIGTERM: saved step 2; rerun it\n")
        return status, forwarded

    child(train)
    with pytest.raises(Interruption) as stop:
        run.run()
    assert str(stop.value) == f"interrupted by {name}: a run: saved step 2; rerun it"
    assert stop.value.status == interrupted
    # What an earlier process said is not taken for this one's.
    child(lambda command: (0, signal.SIGTERM))
    with pytest.raises(Interruption, match="SIGTERM: a run: ended with status 0, its output"):
        run.run()


def test_a_signal_is_handed_to_the_child(tmp_path):
    # The child says that it is ready, and ends with 7 once it has the signal.
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    path = tmp_path / "output"

    def send():
        while not path.read_text():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    with open(path, "w") as output:
        sender = threading.Thread(target=send)
        sender.start()
        assert training_run._run([sys.executable, "-c", code], output) == (7, signal.SIGTERM)
        sender.join()
    assert signal.getsignal(signal.SIGTERM) is before
