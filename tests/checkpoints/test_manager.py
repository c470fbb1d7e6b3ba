import os
import shutil
import uuid

import numpy as np
import pytest
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import manager, restore
from switch_tf.checkpoints.manager import Checkpoints
from switch_tf.checkpoints.model_dir import ModelDir, find
from switch_tf.errors import StorageFails, UserError
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant
from tests.checkpoints.runs import damage, fill, line_of, numbers, save_steps, small_run
from tests.helpers import tiny_model, using

LAYOUTS = {
    "batch:8": ("batch:8", "batch:batch,experts:batch"),
    "batch:1": ("batch:1", "batch:batch"),
    "batch:2,model:4": (
        "batch:2,model:4",
        "batch:batch,experts:batch,d_ff:model,heads:model,vocab:model",
    ),
    "no mesh": None,
}
WI = "model/encoder/layer_0/feed_forward/switch_ffn/experts/wi"
FILES = ("data.data-00000-of-00001", "data.index", "state.data-00000-of-00001", "state.index")


# What one mesh saves: a whole model of one sparse layer a stack, with slots of every kind.


def build(seed, **sizes):
    """(model, optimizer, iterator) on the mesh in use."""
    model = tiny_model(num_layers=1, expert_frequency=1, seed=seed, **sizes)
    optimizer = Adafactor(constant(0.1), beta1=0.9, min_dim_size_to_factor=16)
    optimizer.build(model.trainable_variables)
    with mesh_lib.host():
        return model, optimizer, iter(numbers())


def held(model, optimizer):
    """All values by their names in a checkpoint."""
    found = {v.path: mesh_lib.to_numpy(v) for v in model.trainable_variables}
    return found | {f"optimizer/{k}": mesh_lib.to_numpy(v) for k, v in optimizer.slots.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(MODEL_DIR, values) of a checkpoint of step 7, saved on eight devices."""
    folder = str(tmp_path_factory.mktemp("saved"))
    with using(LAYOUTS["batch:8"]):
        model, optimizer, iterator = build(seed=0)
        fill(optimizer.slots)
        with mesh_lib.host():
            assert [int(next(iterator)) for _ in range(7)] == list(range(7))
        Checkpoints(folder, 3, model, optimizer, iterator, lambda: "A = 1\n").save(7)
        return folder, held(model, optimizer)


def test_slots_of_every_kind_are_saved(saved):
    kinds = {name.rpartition("/")[2] for name in saved[1] if name.startswith("optimizer/")}
    assert kinds == {"v", "vr", "vc", "m"}
    assert all(value.any() for value in saved[1].values())


def test_tensorflow_reads_the_tensors_of_a_sharded_model_whole(saved):
    folder, values = saved
    reader = tf.train.load_checkpoint(f"{folder}/checkpoint_7/state")
    assert reader.get_variable_to_shape_map().keys() == values.keys() | {"optimizer/step"}
    assert reader.get_tensor("optimizer/step") == 7
    for name, value in values.items():
        np.testing.assert_array_equal(reader.get_tensor(name), value, err_msg=name)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "batch:8"])
def test_a_checkpoint_restores_bit_equal_on_another_mesh(saved, layout, tmp_path):
    folder, values = str(tmp_path / "run"), saved[1]
    shutil.copytree(saved[0], folder)
    with using(LAYOUTS[layout]):
        model, optimizer, iterator = build(seed=1)
        initial = held(model, optimizer)
        run = Checkpoints(folder, 3, model, optimizer, iterator, str)
        assert run.restore_latest() == 7
        restored = held(model, optimizer)
        assert restored.keys() == values.keys()
        for name, value in values.items():
            assert restored[name].tobytes() == value.tobytes(), name
            assert "norm/scale" in name or initial[name].tobytes() != value.tobytes(), name
        with mesh_lib.host():
            assert int(next(iterator)) == 7
        # And the way back: what this mesh writes is what eight devices wrote.
        run.save(8)
    reader = tf.train.load_checkpoint(f"{folder}/checkpoint_8/state")
    for name, value in values.items():
        assert reader.get_tensor(name).tobytes() == value.tobytes(), name


def test_every_expert_is_restored_as_itself(saved):
    with using(LAYOUTS["batch:2,model:4"]):
        model = tiny_model(num_layers=1, expert_frequency=1, seed=1)
        restore.restore_model(f"{saved[0]}/checkpoint_7", model)
        (wi,) = model.encoder.blocks[0].feed_forward.layer.experts.wi
        experts = mesh_lib.to_numpy(wi)
    assert len({expert.tobytes() for expert in experts}) == len(experts) == 8
    np.testing.assert_array_equal(experts, saved[1][WI])


def test_a_bfloat16_models_weights_are_float32_in_the_file(tmp_path):
    model, optimizer, iterator = build(seed=0, dtype="bfloat16")
    assert model.compute_dtype == "bfloat16"
    Checkpoints(str(tmp_path), 3, model, optimizer, iterator, str).save(1)
    reader = tf.train.load_checkpoint(f"{tmp_path}/checkpoint_1/state")
    types_of = reader.get_variable_to_dtype_map()
    assert types_of.pop("optimizer/step") == tf.int64
    routers = [name for name in types_of if "/router/kernel" in name]
    assert {types_of[name] for name in routers} == set(types_of.values()) == {tf.float32}
    assert {name.split("/")[1] for name in routers if name.startswith("model/")} == {
        "encoder",
        "decoder",
    }
    again, optimizer, iterator = build(seed=1, dtype="bfloat16")
    Checkpoints(str(tmp_path), 3, again, optimizer, iterator, str).restore_latest()
    for ours, theirs in zip(again.trainable_variables, model.trainable_variables, strict=True):
        assert ours.value.dtype == tf.float32
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    "sizes, name, theirs, ours",
    [
        ({"d_ff": 64}, WI, (8, 16, 32), (8, 16, 64)),
        ({"num_experts": 4}, WI.replace("experts/wi", "router/kernel"), (16, 8), (16, 4)),
    ],
)
def test_a_checkpoint_of_another_shape_is_one_line_and_stays(saved, sizes, name, theirs, ours):
    model, optimizer, iterator = build(seed=0, **sizes)
    folder, _ = saved
    mend = "use the gin/models file that it was trained with"
    with pytest.raises(UserError) as caught:
        Checkpoints(folder, 3, model, optimizer, iterator, str).restore_latest()
    assert str(caught.value) == (
        f"checkpoint '{folder}/checkpoint_7': {name} has shape {theirs}, but the model's is "
        f"{ours}: {mend}, or another MODEL_DIR"
    )
    with pytest.raises(UserError) as caught:
        restore.restore_initial(folder, model, optimizer)
    assert str(caught.value) == (
        f"INITIAL_CHECKPOINT_PATH '{folder}/checkpoint_7': {name} has shape {theirs}, but the "
        f"model's is {ours}: {mend}"
    )
    assert ModelDir(folder).steps() == [7]


# The folder's life: a model of a weight or two.


def test_nothing_is_restored_from_an_empty_folder(tmp_path):
    run = small_run(tmp_path / "new" / "run", 5.0)
    assert run.checkpoints.restore_latest() is None
    assert float(run.weights[0][0, 0]) == 5.0


def test_the_newest_by_number_is_restored_with_its_place_in_the_data(tmp_path):
    save_steps(tmp_path, [2, 9, 10])
    run = small_run(tmp_path)
    assert run.checkpoints.restore_latest() == 10
    assert run.weights[0].numpy().tolist() == np.full([4, 3], 10.0).tolist()
    assert int(next(run.iterator)) == 10


@pytest.mark.parametrize("keep, kept", [(1, [11]), (2, [10, 11]), (9, [2, 9, 10, 11])])
def test_the_newest_are_kept(keep, kept, tmp_path):
    save_steps(tmp_path, [2, 9, 10, 11], keep)
    assert ModelDir(str(tmp_path)).steps() == kept
    folders = {f"checkpoint_{step}" for step in kept}
    assert set(os.listdir(tmp_path)) == folders | {"config.gin"}


def test_the_config_lies_beside_the_checkpoints(tmp_path):
    for text in ("A = 1\n", "A = 2\n"):
        small_run(tmp_path, config=lambda text=text: text).checkpoints.save(len(text))
        shutil.rmtree(tmp_path / f"checkpoint_{len(text)}")
        assert (tmp_path / "config.gin").read_text() == text


def test_a_step_that_is_saved_already_is_left_alone(tmp_path):
    save_steps(tmp_path, [3])
    small_run(tmp_path, value=8.0).checkpoints.save(3)
    run = small_run(tmp_path)
    run.checkpoints.restore_latest()
    assert float(run.weights[0][0, 0]) == 3.0


def test_an_interrupted_save_is_removed_and_never_restored(tmp_path, monkeypatch):
    save_steps(tmp_path, [1])
    write = manager.tensor_files.write_part

    def interrupt(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manager.tensor_files, "write_part", interrupt)
        small_run(tmp_path, 2.0).checkpoints.save(2)
    assert (tmp_path / "checkpoint_2.partial/state.index").exists()
    assert ModelDir(str(tmp_path)).steps() == [1]
    assert find(str(tmp_path), "CHECKPOINT_PATH") == str(tmp_path / "checkpoint_1")
    run = small_run(tmp_path)
    assert not (tmp_path / "checkpoint_2.partial").exists()
    assert run.checkpoints.restore_latest() == 1
    assert float(run.weights[0][0, 0]) == 1.0


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_is_set_aside_aloud_and_the_one_before_taken(name, how, tmp_path, capsys):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path / "checkpoint_2" / name, how)
    run = small_run(tmp_path)
    assert run.checkpoints.restore_latest() == 1
    assert float(run.weights[0][0, 0]) == 1.0
    assert int(next(run.iterator)) == 1
    path = tmp_path / "checkpoint_2"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path} cannot be read and was renamed to {path}.damaged: ")
    assert "{{" not in line
    assert set(os.listdir(tmp_path)) == {"checkpoint_1", "checkpoint_2.damaged", "config.gin"}


def test_the_same_step_can_be_damaged_twice(tmp_path):
    for _ in range(2):
        save_steps(tmp_path, [1, 2])
        damage(tmp_path / "checkpoint_2/state.index", "cut")
        assert small_run(tmp_path).checkpoints.restore_latest() == 1


def test_where_all_are_damaged_that_is_one_line(tmp_path):
    save_steps(tmp_path, [1, 2])
    for step in (1, 2):
        damage(tmp_path / f"checkpoint_{step}/state.index", "cut")
    # Again and again: a run must not start anew where another's checkpoints are.
    for _ in range(2):
        assert line_of(small_run(tmp_path).checkpoints.restore_latest) == (
            f"none of the checkpoints in '{tmp_path}' can be read ({tmp_path / 'checkpoint_2'}: "
            "not an sstable (bad magic number)): repair or remove them, or give another MODEL_DIR"
        )
    assert ModelDir(str(tmp_path)).steps() == [1, 2]


def test_memory_that_does_not_suffice_is_no_damage(tmp_path, monkeypatch):
    save_steps(tmp_path, [1, 2])

    def read(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(manager.tensor_files, "read", read)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        small_run(tmp_path).checkpoints.restore_latest()
    assert ModelDir(str(tmp_path)).steps() == [1, 2]


def test_protected_checkpoints_are_kept_beside_the_newest(tmp_path):
    run = small_run(tmp_path, keep=2)
    run.checkpoints.protected = {1, 4}
    for step in range(1, 6):
        run.checkpoints.save(step)
    assert ModelDir(str(tmp_path)).steps() == [1, 4, 5]
    run.checkpoints.protected = {4}
    run.checkpoints.prune()
    assert ModelDir(str(tmp_path)).steps() == [4, 5]


def test_a_run_whose_data_have_changed_is_not_resumed(tmp_path):
    files = {"a.tsv": [6, "digest"], "b.tsv": [7, None]}
    small_run(tmp_path, files=files).checkpoints.save(1)
    assert small_run(tmp_path, files=files).checkpoints.restore_latest() == 1
    changed = small_run(tmp_path, files=files | {"a.tsv": [6, "other"], "b.tsv": [8, None]})
    assert line_of(changed.checkpoints.restore_latest) == (
        f"data have changed since checkpoint '{tmp_path}/checkpoint_1' was saved, so that its "
        "position in them means nothing: a.tsv has other content of the same size and 1 more: "
        "put the old ones back, or use another MODEL_DIR with this one as INITIAL_CHECKPOINT_PATH"
    )
    assert ModelDir(str(tmp_path)).steps() == [1]


def test_what_is_noted_comes_back_with_a_checkpoint(tmp_path):
    run = small_run(tmp_path, files={"a.tsv": [6, None]})
    run.checkpoints.notes = {"losses": [1.5]}
    run.checkpoints.save(1)
    other = small_run(tmp_path, files={"a.tsv": [6, None]})
    other.checkpoints.restore_latest()
    assert other.checkpoints.notes == {"losses": [1.5]}


def test_every_so_many_steps_a_checkpoint_stays(tmp_path):
    run = small_run(tmp_path, keep=1, keep_period=4)
    for step in range(2, 12, 2):
        run.checkpoints.save(step)
    assert ModelDir(str(tmp_path)).steps() == [4, 8, 10]


def test_a_weight_more_or_less_is_one_line(tmp_path):
    save_steps(tmp_path, [1])
    path = tmp_path / "checkpoint_1"
    mend = "use the gin/models file that it was trained with, or another MODEL_DIR"
    larger = small_run(tmp_path, wo=(3, 4))
    assert line_of(larger.checkpoints.restore_latest) == (
        f"checkpoint '{path}' has no wo: it belongs to another model; {mend}"
    )
    larger.checkpoints.save(2)
    assert line_of(small_run(tmp_path).checkpoints.restore_latest) == (
        f"checkpoint '{tmp_path / 'checkpoint_2'}' has wo, which the model lacks: {mend}"
    )
    assert ModelDir(str(tmp_path)).steps() == [1, 2]


def test_another_optimizer_is_one_line_and_nothing_is_set_aside(tmp_path):
    save_steps(tmp_path, [1, 2])
    assert line_of(small_run(tmp_path, beta1=0.9).checkpoints.restore_latest) == (
        f"checkpoint '{tmp_path / 'checkpoint_2'}' has no optimizer/wi/m of shape (4, 3): use the "
        "model, the optimizer's settings and FROZEN that it was trained with, or another MODEL_DIR "
        "with this one as INITIAL_CHECKPOINT_PATH"
    )
    assert ModelDir(str(tmp_path)).steps() == [1, 2]


def test_a_slot_that_this_run_would_not_update_is_one_line(tmp_path):
    small_run(tmp_path, beta1=0.9).checkpoints.save(1)
    assert line_of(small_run(tmp_path).checkpoints.restore_latest) == (
        f"checkpoint '{tmp_path / 'checkpoint_1'}' has optimizer/wi/m, which this run's optimizer "
        "lacks: use the model, the optimizer's settings and FROZEN that it was trained with, or "
        "another MODEL_DIR with this one as INITIAL_CHECKPOINT_PATH"
    )


def test_other_data_are_one_line_and_nothing_is_set_aside(tmp_path):
    save_steps(tmp_path, [1, 2])
    run = small_run(tmp_path, dataset=numbers().shuffle(5))
    assert line_of(run.checkpoints.restore_latest) == (
        f"checkpoint '{tmp_path / 'checkpoint_2'}' belongs to a run on other data: use its "
        "MIXTURE_OR_TASK_NAME, TASK_FEATURE_LENGTHS and PACK, or another MODEL_DIR with this one "
        "as INITIAL_CHECKPOINT_PATH"
    )
    assert ModelDir(str(tmp_path)).steps() == [1, 2]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file/run"
    line = line_of(small_run, folder)
    assert line.startswith(f"cannot write to MODEL_DIR '{folder}': ") and "Not a dir" in line


def test_a_disk_that_refuses_a_save_is_one_line_and_the_others_stay(tmp_path):
    save_steps(tmp_path, [1])
    run = small_run(tmp_path, 2.0)
    (tmp_path / "checkpoint_2.partial").write_text("in the way")
    assert line_of(run.checkpoints.save, 2).startswith(f"cannot write to MODEL_DIR '{tmp_path}': ")
    assert ModelDir(str(tmp_path)).steps() == [1]


# On a remote file system: TensorFlow's ram://, which renames no folder that holds something.


@pytest.fixture
def remote():
    """A folder on ram:// that is not there yet."""
    folder = f"ram://checkpoints-{uuid.uuid4().hex}/run"
    yield folder
    tf.io.gfile.rmtree(os.path.dirname(folder))


def test_a_remote_run_keeps_its_newest_and_restores_them_with_their_place_in_the_data(remote):
    save_steps(remote, [1, 2, 3], keep=2)
    assert ModelDir(remote).steps() == [2, 3]
    assert sorted(tf.io.gfile.listdir(remote)) == ["checkpoint_2", "checkpoint_3", "config.gin"]
    run = small_run(remote)
    assert run.checkpoints.restore_latest() == 3
    assert float(run.weights[0][0, 0]) == 3.0
    assert int(next(run.iterator)) == 3


def test_an_interrupted_remote_save_is_no_checkpoint_and_is_removed(remote, monkeypatch):
    save_steps(remote, [1])

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manager.tensor_files, "write_part", interrupt)
        small_run(remote, 2.0).checkpoints.save(2)
    assert tf.io.gfile.exists(f"{remote}/checkpoint_2/data.index")
    assert ModelDir(remote).steps() == [1]
    run = small_run(remote)
    assert not tf.io.gfile.exists(f"{remote}/checkpoint_2")
    assert run.checkpoints.restore_latest() == 1


@pytest.mark.parametrize("kind", [tf.errors.UnavailableError, tf.errors.UnknownError])
def test_a_remote_file_system_that_fails_sets_nothing_aside(remote, monkeypatch, kind):
    save_steps(remote, [1, 2])

    def fail(*_):
        raise kind(None, None, "HTTP 503")

    run = small_run(remote)
    with monkeypatch.context() as patch, pytest.raises(StorageFails) as caught:
        patch.setattr(manager.tensor_files, "read", fail)
        run.checkpoints.restore_latest()
    told = f"checkpoint '{remote}/checkpoint_2' cannot be read: HTTP 503; this may pass: "
    assert str(caught.value).startswith(told)
    with monkeypatch.context() as patch, pytest.raises(StorageFails, match="cannot write to MODEL"):
        patch.setattr(manager.tensor_files, "write_part", fail)
        run.checkpoints.save(3)
    assert ModelDir(remote).steps() == [1, 2]


def test_a_damaged_remote_checkpoint_is_set_aside_with_its_files(remote, capsys):
    save_steps(remote, [1, 2])
    tf.io.gfile.remove(f"{remote}/checkpoint_2/state.data-00000-of-00001")
    assert small_run(remote).checkpoints.restore_latest() == 1
    path = f"{remote}/checkpoint_2"
    assert f"{path} cannot be read and was renamed to {path}.damaged: " in capsys.readouterr().out
    names = {"checkpoint_1", "checkpoint_2.damaged", "config.gin"}
    assert set(tf.io.gfile.listdir(remote)) == names
    assert "state.index" in tf.io.gfile.listdir(f"{path}.damaged")
