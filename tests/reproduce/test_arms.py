import json
import os
import signal
import sys
import threading

import pytest

from switch_tf.errors import UserError
from switch_tf.reproduce import arms
from switch_tf.reproduce.arms import Arm

FILES = ("models/switch_tiny.gin", "layouts/expert_data.gin", "tables/quickstart.gin")


def make_arm(folder, **macros):
    return Arm("an arm", folder / "arm", FILES, {"TRAIN_STEPS": 10} | macros)


def log(arm, step):
    arm.model_dir.mkdir(parents=True, exist_ok=True)
    record = {"step": step, "kind": "evaluation", "task": "t", "nlp": -1.0}
    (arm.model_dir / "metrics.jsonl").write_text(json.dumps(record) + "\n")


@pytest.fixture
def child(monkeypatch):
    """Puts a function of the command in the place of the child process."""

    def replace(function):
        monkeypatch.setattr(arms, "_run", lambda command, output: function(command))

    return replace


def test_its_command_is_what_a_user_would_type(tmp_path, child):
    commands = []
    arm = make_arm(tmp_path, DTYPE="bfloat16")

    def run(command):
        commands.append(command)
        log(arm, 10)
        return 0, None

    child(run)
    arm.run()
    (command,) = commands
    assert command[3:] == [
        "train",
        *(f"--gin_file={name}" for name in FILES),
        "--gin.TRAIN_STEPS=10",
        "--gin.DTYPE='bfloat16'",
        f"--gin.MODEL_DIR='{arm.model_dir}'",
    ]
    assert (arm.model_dir / "log.txt").read_text().startswith("$ ")
    assert arm.settings["NUM_EXPERTS"] == 8


def test_what_is_done_is_not_run_again(tmp_path, child, capsys):
    arm = make_arm(tmp_path)
    log(arm, 10)
    child(lambda command: pytest.fail("it was run again"))
    arm.run()
    assert capsys.readouterr().out == f"an arm: done before, in {arm.model_dir}\n"


def test_a_folder_of_other_settings_is_not_taken_for_this_run(tmp_path, child):
    def run(command):
        log(arm, 10)
        return 0, None

    child(run)
    arm = make_arm(tmp_path, SEED=0)
    arm.run()
    with pytest.raises(UserError, match="was made with SEED=0, and this is 1.*--output_dir"):
        make_arm(tmp_path, SEED=1).run()
    make_arm(tmp_path, SEED=0, TRAIN_STEPS=5).run()


def test_what_is_not_at_its_last_step_goes_on(tmp_path, child):
    arm = make_arm(tmp_path)
    log(arm, 9)
    assert not arm.is_done()

    def run(command):
        log(arm, 10)
        return 0, None

    child(run)
    arm.run()
    assert arm.is_done()


@pytest.mark.parametrize("status", [0, 2])
def test_a_run_that_does_not_end_is_told_with_its_log(tmp_path, child, status):
    arm = make_arm(tmp_path)
    child(lambda command: (status, None))
    with pytest.raises(UserError, match=rf"^an arm failed with status {status}: .*arm/log.txt; "):
        arm.run()


def test_an_interrupted_run_says_that_the_same_command_goes_on(tmp_path, child):
    child(lambda command: (0, "SIGTERM"))
    with pytest.raises(UserError, match="^an arm: SIGTERM: saved; the same command goes on"):
        make_arm(tmp_path).run()


def test_an_interrupted_run_that_did_not_save_does_not_say_so(tmp_path, child):
    child(lambda command: (1, "SIGTERM"))
    with pytest.raises(UserError, match="an arm: SIGTERM, and it ended with status 1, its output"):
        make_arm(tmp_path).run()


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
        assert arms._run([sys.executable, "-c", code], output) == (7, "SIGTERM")
        sender.join()
    assert signal.getsignal(signal.SIGTERM) is before
