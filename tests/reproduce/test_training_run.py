import json

import pytest

from switch_tf.errors import UserError
from switch_tf.reproduce.training_run import TrainingRun, gin_text

FILES = ("models/switch_tiny.gin", "layouts/expert_data.gin", "tables/quickstart.gin")


def make_run(folder, **macros):
    given = {"TRAIN_STEPS": 10} | macros
    return TrainingRun("a run", folder / "run", FILES, given, folder / "kept.json")


def log(run, step):
    run.model_dir.mkdir(parents=True, exist_ok=True)
    record = {"step": step, "kind": "evaluation", "task": "t", "nlp": -1.0}
    (run.model_dir / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (run.model_dir / "run.json").write_text("{}")


def test_its_command_is_what_a_user_would_type(tmp_path):
    run = make_run(tmp_path, DTYPE="bfloat16", **{"SwitchLayer.router": "@Top2Router"})
    assert run.command[3:] == [
        "train",
        *(f"--gin_file={name}" for name in FILES),
        "--gin.TRAIN_STEPS=10",
        "--gin.DTYPE='bfloat16'",
        "--gin.SwitchLayer.router=@Top2Router",
        f"--gin.MODEL_DIR='{run.model_dir}'",
    ]
    assert run.settings["NUM_EXPERTS"] == 8


@pytest.mark.parametrize(
    "value, text", [("@A", "@A"), ("%B", "%B"), ("c", "'c'"), (None, "None"), ((), "()")]
)
def test_a_value_is_written_as_gin_reads_it(value, text):
    assert gin_text(value) == text


def test_it_is_done_once_its_last_step_is_evaluated(tmp_path):
    run = make_run(tmp_path)
    log(run, 9)
    assert not run.is_done() and not run.is_trained()
    with pytest.raises(UserError, match="^a run is not done$"):
        run.result()
    log(run, 10)
    assert run.is_done() and run.is_trained()
    assert run.result().step == 10


def test_its_result_is_kept_outside_of_its_folder_without_any_path(tmp_path):
    run = make_run(tmp_path, INITIAL_CHECKPOINT_PATH="/home/me/model")
    log(run, 10)
    run.keep()
    (run.model_dir / "metrics.jsonl").unlink()
    assert run.is_done() and not run.is_trained()
    assert run.result().settings["SEED"] == 0
    assert str(tmp_path) not in run.kept.read_text() and "/home/me" not in run.kept.read_text()


def test_the_result_of_a_shorter_run_is_not_taken_for_that_of_a_longer_one(tmp_path):
    # A schedule that does not depend on how long the run is.
    constant = {"schedules.linear_decay.total_steps": 1000}
    run = make_run(tmp_path, **constant)
    log(run, 10)
    run.keep()
    assert not make_run(tmp_path, TRAIN_STEPS=20, **constant).is_done()
    assert make_run(tmp_path, TRAIN_STEPS=5, **constant).is_done()


def test_a_schedule_that_ends_with_the_run_is_another_in_a_longer_run(tmp_path):
    run = make_run(tmp_path)
    log(run, 10)
    run.keep()
    with pytest.raises(UserError, match="made with linear_decay.total_steps=10, but this .* 20"):
        make_run(tmp_path, TRAIN_STEPS=20).is_done()


def test_a_run_that_diverged_is_done(tmp_path):
    run = make_run(tmp_path)
    log(run, 3)
    run.keep(diverged_at=5)
    assert run.is_done() and run.result().diverged_at == 5


@pytest.mark.parametrize("what", ["folder", "result"])
def test_what_another_run_left_is_not_taken_for_this_ones(tmp_path, what):
    run, other = make_run(tmp_path, SEED=0), make_run(tmp_path, SEED=1)
    log(run, 10)
    if what == "folder":
        (run.model_dir / "settings.json").write_text(json.dumps(run.settings, default=repr))
        mend = "--output_dir, or remove that folder"
    else:
        run.keep()
        mend = "--results_dir, or remove that file"
    with pytest.raises(UserError, match=f"was made with SEED=0, but this run has 1: .* {mend}$"):
        other.is_done()
    assert make_run(tmp_path, SEED=0, LOG_PERIOD=2).is_done()
