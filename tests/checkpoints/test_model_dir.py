import subprocess
import sys

import pytest

from switch_tf.checkpoints.model_dir import (
    CONFIG,
    FACTS,
    ModelDir,
    claim,
    evaluation,
    find,
    find_file,
)
from switch_tf.errors import UserError


def test_steps_are_of_whole_checkpoints_by_number(tmp_path):
    others = ("checkpoint_7.partial", "checkpoint_5.damaged", "checkpoint_x", "tensorboard")
    for name in ("checkpoint_10", "checkpoint_9", *others):
        (tmp_path / name).mkdir()
    assert ModelDir(str(tmp_path)).steps() == [9, 10]
    assert ModelDir(str(tmp_path / "nowhere")).steps() == []


def test_a_checkpoint_is_found_by_its_own_folder_or_its_runs(tmp_path):
    for name in ("checkpoint_10", "checkpoint_9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.index").write_text("")
    assert find(str(tmp_path), "CHECKPOINT_PATH") == str(tmp_path / "checkpoint_10")
    assert find(str(tmp_path / "checkpoint_9"), "CHECKPOINT_PATH") == str(tmp_path / "checkpoint_9")
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(UserError) as told:
        find(nowhere, "CHECKPOINT_PATH")
    assert str(told.value) == (
        f"CHECKPOINT_PATH='{nowhere}': no checkpoint there: give a MODEL_DIR that holds "
        "checkpoints, or a checkpoint_<step> folder"
    )


def test_a_file_of_a_run_is_found_from_its_folder_and_from_its_checkpoints(tmp_path):
    checkpoint = tmp_path / "checkpoint_3"
    checkpoint.mkdir()
    (tmp_path / "config.gin").write_text("")
    for path in (tmp_path, checkpoint):
        for end in ("", "/"):
            assert find_file(f"{path}{end}", CONFIG).replace("//", "/") == f"{tmp_path}/config.gin"
        assert find_file(str(path), FACTS) is None
    # One of its own, of a model by itself, comes first.
    (checkpoint / "config.gin").write_text("")
    assert find_file(str(checkpoint), CONFIG) == f"{checkpoint}/config.gin"


def test_figures_have_a_name_of_their_task_and_split_and_a_number_where_it_is_taken(tmp_path):
    path = evaluation(str(tmp_path), "glue", "test[:10%]")
    assert claim(path) == path == f"{tmp_path}/evaluation_glue_test_10_.json"
    assert claim(path) == f"{tmp_path}/evaluation_glue_test_10__2.json"
    # Of figures that were removed.
    (tmp_path / "evaluation_glue_test_10__3_predictions").mkdir()
    assert claim(path) == f"{tmp_path}/evaluation_glue_test_10__4.json"
    assert ModelDir("/run").predictions("test[:10%]", 7) == "/run/predictions/test_10__7"


def test_figures_of_a_runs_checkpoint_are_not_in_its_folder_which_is_removed_in_time(tmp_path):
    checkpoint = str(tmp_path / "checkpoint_7")
    # A copy of the checkpoint alone.
    assert evaluation(checkpoint, "glue", "test") == f"{checkpoint}/evaluation_glue_test.json"
    (tmp_path / "run.json").write_text("{}")
    expected = f"{tmp_path}/evaluations/glue_test_7.json"
    assert evaluation(checkpoint, "glue", "test") == expected
    assert evaluation(f"{checkpoint}/", "glue", "test") == expected
    model = str(tmp_path / "model")
    assert evaluation(model, "glue", "test") == f"{model}/evaluation_glue_test.json"


def test_the_home_folder_can_be_given_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    assert ModelDir("~/run").facts == find_file("~/run", FACTS) == f"{tmp_path}/run/run.json"


def test_a_local_folder_is_looked_at_without_tensorflow(tmp_path):
    (tmp_path / "checkpoint_3").mkdir()
    code = (
        "import sys; from switch_tf.checkpoints.model_dir import ModelDir, find_file; "
        f"print(ModelDir({str(tmp_path)!r}).steps(), find_file({str(tmp_path)!r}, 'run.json'), "
        "'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[3] None False\n"
