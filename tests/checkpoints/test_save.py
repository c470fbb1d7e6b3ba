import os
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from switch_tf import runtime
from switch_tf.checkpoints import restore, save
from switch_tf.checkpoints.model_dir import CONFIG, find, find_file
from switch_tf.checkpoints.save import save_model
from tests.checkpoints.runs import line_of, small_run
from tests.helpers import tiny_model, using


def model_of(value, shape=(4, 3)):
    weight = keras.Variable(np.full(shape, value, np.float32), name="wi")
    return types.SimpleNamespace(trainable_variables=[weight])


def test_a_model_alone_is_restored_bit_equal_on_another_mesh(tmp_path):
    path = str(tmp_path / "model")
    sizes = {"num_layers": 1, "expert_frequency": 1}
    with using(("batch:8", "batch:batch,experts:batch")):
        save_model(path, tiny_model(seed=0, **sizes))
    saved, fresh = tiny_model(seed=0, **sizes), tiny_model(seed=1, **sizes)
    restore.restore_model(find(path, "CHECKPOINT_PATH"), fresh)
    for ours, theirs in zip(fresh.trainable_variables, saved.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


def test_a_run_starts_from_a_model_alone_but_not_from_its_optimizer(tmp_path):
    path = str(tmp_path / "model")
    save_model(path, model_of(3.0))
    run = small_run(tmp_path / "run")
    report = restore.restore_initial(path, run.model, run.optimizer)
    assert float(run.weights[0][0, 0]) == 3.0
    assert (report.variables, report.fresh, report.optimizer_step) == (("wi",), (), None)
    line = line_of(restore.restore_initial, path, run.model, run.optimizer, True)
    assert line.endswith("or RESTORE_OPTIMIZER=False")


def test_the_configuration_lies_beside_the_weights_where_it_is_given(tmp_path):
    save_model(str(tmp_path / "a"), model_of(1.0), config="A = 1\n")
    assert (tmp_path / "a/config.gin").read_text() == "A = 1\n"
    assert find_file(str(tmp_path / "a"), CONFIG) == str(tmp_path / "a/config.gin")
    save_model(str(tmp_path / "b"), model_of(1.0))
    assert {name.partition(".")[0] for name in os.listdir(tmp_path / "b")} == {"state"}


def test_an_interrupted_writing_leaves_no_checkpoint_and_can_be_done_again(tmp_path, monkeypatch):
    path, write = str(tmp_path / "model"), save.tensor_files.write

    def interrupt(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(save.tensor_files, "write", interrupt)
        save_model(path, model_of(1.0), config="A = 1\n")
    assert os.listdir(tmp_path) == ["model.partial"]
    save_model(path, model_of(2.0))
    assert os.listdir(tmp_path) == ["model"]
    assert not (tmp_path / "model/config.gin").exists()


def test_a_model_that_is_there_already_or_cannot_be_written_is_one_line(tmp_path):
    path = str(tmp_path / "model")
    save_model(path, model_of(1.0))
    assert line_of(save_model, path, model_of(2.0)) == (
        f"'{path}' already exists: remove it, or give another path"
    )
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file/model")
    assert line_of(save_model, path, model_of(1.0)).startswith(f"cannot write to '{path}': ")


def test_the_home_folder_can_be_given_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model("~/model", model_of(1.0))
    assert find("~/model", "CHECKPOINT_PATH") == str(tmp_path / "model")
    assert line_of(save_model, "~/model", model_of(2.0)).startswith(f"'{tmp_path}/model' already")


def test_a_host_that_is_not_the_chief_leaves_the_folder_and_what_is_on_no_mesh_to_it(
    tmp_path, monkeypatch
):
    """What hosts write together is tested in tests/hosts/test_runs.py."""
    monkeypatch.setattr(runtime, "is_chief", lambda: False)
    save_model(str(tmp_path / "model"), model_of(1.0), config="A = 1\n")
    assert os.listdir(tmp_path) == []


def test_a_model_is_written_to_a_remote_file_system_and_restored_from_it():
    path = "ram://saved-models/model"
    save_model(path, model_of(3.0), config="A = 1\n")
    fresh = model_of(0.0)
    restore.restore_model(find(path, "CHECKPOINT_PATH"), fresh)
    assert float(fresh.trainable_variables[0][0, 0]) == 3.0
    assert find_file(path, CONFIG) == f"{path}/config.gin"
    tf.io.gfile.rmtree("ram://saved-models")


def test_a_copy_in_bfloat16_takes_half_the_space_and_is_restored_rounded(tmp_path):
    sizes, saved = {"num_layers": 1}, tiny_model(seed=0, num_layers=1)
    size = {}
    with using(("batch:8", "batch:batch,experts:batch")):
        model = tiny_model(seed=0, **sizes)
        for dtype in ("float32", "bfloat16"):
            save_model(str(tmp_path / dtype), model, dtype=dtype)
            (data,) = (tmp_path / dtype).glob("state.data-*")
            size[dtype] = data.stat().st_size
    assert size["bfloat16"] == size["float32"] // 2
    fresh = tiny_model(seed=1, **sizes)
    restore.restore_model(str(tmp_path / "bfloat16"), fresh)
    for ours, theirs in zip(fresh.trainable_variables, saved.trainable_variables, strict=True):
        rounded = tf.cast(tf.cast(theirs.numpy(), tf.bfloat16), tf.float32)
        np.testing.assert_array_equal(ours.numpy(), rounded.numpy(), err_msg=ours.path)
