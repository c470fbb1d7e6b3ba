import os
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import checkpoints
from switch_tf.checkpoints.checkpoints import Checkpoints
from switch_tf.errors import UserError
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant
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


def numbers():
    """A dataset of 100 numbers, read ahead."""
    return tf.data.Dataset.range(100).prefetch(4)


def build(seed, **sizes):
    """(model, optimizer, iterator) on the mesh in use."""
    model = tiny_model(num_layers=1, expert_frequency=1, seed=seed, **sizes)
    optimizer = Adafactor(constant(0.1), beta1=0.9, min_dim_size_to_factor=16)
    optimizer.build(model.trainable_variables)
    with mesh_lib.host():
        return model, optimizer, iter(numbers())


def fill(slots):
    """Random values in place of the slots' zeros."""
    generator = np.random.default_rng(0)
    for slot in slots.values():
        value = generator.random(slot.shape, np.float32)
        if isinstance(slot, dtensor.DVariable):
            parts = [tf.constant(value[place]) for place in mesh_lib.local_places(slot)]
            slot.assign(dtensor.pack(parts, slot.layout))
        else:
            slot.assign(value)


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
        checkpoints.restore_model(f"{saved[0]}/checkpoint_7", model)
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
    mend = "take the gin/models file that it was trained with"
    with pytest.raises(UserError) as caught:
        Checkpoints(folder, 3, model, optimizer, iterator, str).restore_latest()
    assert str(caught.value) == (
        f"checkpoint '{folder}/checkpoint_7': {name} has shape {theirs}, the model's is {ours}: "
        f"{mend}, or another MODEL_DIR"
    )
    with pytest.raises(UserError) as caught:
        checkpoints.restore_initial(folder, model, optimizer)
    assert str(caught.value) == (
        f"INITIAL_CHECKPOINT_PATH '{folder}/checkpoint_7': {name} has shape {theirs}, the model's "
        f"is {ours}: {mend}"
    )
    assert checkpoints.steps(folder) == [7]


# The folder's life: a model of a weight or two.


def small_run(folder, value=0.0, keep=3, beta1=0.0, dataset=None, config=str, **more):
    """A run whose weights, `wi` and `more`, are all of one value."""
    shapes = {"wi": (4, 3)} | more
    weights = [
        keras.Variable(np.full(shape, value, np.float32), name=name)
        for name, shape in shapes.items()
    ]
    model = types.SimpleNamespace(trainable_variables=weights)
    optimizer = Adafactor(constant(0.1), beta1=beta1)
    optimizer.build(weights)
    iterator = iter(numbers() if dataset is None else dataset)
    run = Checkpoints(str(folder), keep, model, optimizer, iterator, config)
    return types.SimpleNamespace(
        model=model, optimizer=optimizer, iterator=iterator, checkpoints=run, weights=weights
    )


def save_steps(folder, steps, keep=3):
    """Saves checkpoints whose weights, and whose position in the data, are the step."""
    for step in steps:
        run = small_run(folder, float(step), keep)
        for _ in range(step):
            next(run.iterator)
        run.checkpoints.save(step)


def line_of(function, *arguments):
    """The text of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    assert checkpoints.steps(str(tmp_path)) == kept
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


def test_an_interrupted_save_is_removed_and_never_restored(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    save_steps(tmp_path, [1])
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path, 2.0, config=interrupt).checkpoints.save(2)
    assert (tmp_path / "checkpoint_2.partial/state.index").exists()
    assert checkpoints.steps(str(tmp_path)) == [1]
    assert checkpoints.find(str(tmp_path)) == str(tmp_path / "checkpoint_1")
    run = small_run(tmp_path)
    assert not (tmp_path / "checkpoint_2.partial").exists()
    assert run.checkpoints.restore_latest() == 1
    assert float(run.weights[0][0, 0]) == 1.0


def damage(path, how):
    """Cuts, empties, flips a byte of, or removes a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    ends = {"cut": content[:middle], "empty": b"", "flipped": content}
    path.unlink()
    if how in ends:
        path.write_bytes(ends[how])


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
    assert line.startswith(f"{path} cannot be read and is set aside as {path}.damaged: ")
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
            "not an sstable (bad magic number)): mend or remove them, or give another MODEL_DIR"
        )
    assert checkpoints.steps(str(tmp_path)) == [1, 2]


def test_memory_that_does_not_suffice_is_no_damage(tmp_path, monkeypatch):
    save_steps(tmp_path, [1, 2])

    def read(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(checkpoints.tensor_files, "read", read)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        small_run(tmp_path).checkpoints.restore_latest()
    assert checkpoints.steps(str(tmp_path)) == [1, 2]


def test_a_weight_more_or_less_is_one_line(tmp_path):
    save_steps(tmp_path, [1])
    path = tmp_path / "checkpoint_1"
    mend = "take the gin/models file that it was trained with, or another MODEL_DIR"
    larger = small_run(tmp_path, wo=(3, 4))
    assert line_of(larger.checkpoints.restore_latest) == (
        f"checkpoint '{path}' has no wo: it is of another model; {mend}"
    )
    larger.checkpoints.save(2)
    assert line_of(small_run(tmp_path).checkpoints.restore_latest) == (
        f"checkpoint '{tmp_path / 'checkpoint_2'}' has wo, the model has not: {mend}"
    )
    assert checkpoints.steps(str(tmp_path)) == [1, 2]


def test_another_optimizer_is_one_line_and_nothing_is_set_aside(tmp_path):
    save_steps(tmp_path, [1, 2])
    assert line_of(small_run(tmp_path, beta1=0.9).checkpoints.restore_latest) == (
        f"checkpoint '{tmp_path / 'checkpoint_2'}' has no optimizer/wi/m of shape (4, 3): take the "
        "model and the optimizer's settings that it was trained with, or another MODEL_DIR and "
        "this one as INITIAL_CHECKPOINT_PATH"
    )
    assert checkpoints.steps(str(tmp_path)) == [1, 2]


def test_other_data_are_one_line_and_nothing_is_set_aside(tmp_path):
    save_steps(tmp_path, [1, 2])
    run = small_run(tmp_path, dataset=numbers().shuffle(5))
    assert line_of(run.checkpoints.restore_latest) == (
        f"checkpoint '{tmp_path / 'checkpoint_2'}' is of a run over other data: take its "
        "MIXTURE_OR_TASK_NAME, TASK_FEATURE_LENGTHS and PACK, or another MODEL_DIR "
        "and this one as INITIAL_CHECKPOINT_PATH"
    )
    assert checkpoints.steps(str(tmp_path)) == [1, 2]


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
    assert checkpoints.steps(str(tmp_path)) == [1]


def test_a_checkpoint_is_found_by_its_own_folder_or_its_runs(tmp_path):
    save_steps(tmp_path, [9, 10])
    assert checkpoints.find(str(tmp_path)) == str(tmp_path / "checkpoint_10")
    assert checkpoints.find(str(tmp_path / "checkpoint_9")) == str(tmp_path / "checkpoint_9")
    nowhere = str(tmp_path / "nowhere")
    assert line_of(checkpoints.find, nowhere) == (
        f"no checkpoint at '{nowhere}': give a MODEL_DIR that holds checkpoint_<step>, or such a "
        "folder"
    )


def test_another_run_starts_from_the_weights_alone(tmp_path):
    saver = small_run(tmp_path, 3.0, old=(2,))
    fill(saver.optimizer.slots)
    next(saver.iterator)
    saver.checkpoints.save(5)
    run = small_run(tmp_path / "other", new=(2,))
    report = checkpoints.restore_initial(str(tmp_path), run.model, run.optimizer)
    assert [float(weight.numpy().flat[0]) for weight in run.weights] == [3.0, 0.0]
    assert not any(slot.numpy().any() for slot in run.optimizer.slots.values())
    assert int(next(run.iterator)) == 0
    assert str(report) == (
        f"initial checkpoint {tmp_path / 'checkpoint_5'}: 1 variables restored, 1 (new) "
        "fresh, 1 (old) skipped; 2 optimizer slots fresh"
    )


def test_an_initial_checkpoint_that_cannot_serve_is_one_line(tmp_path):
    save_steps(tmp_path, [1])
    run = small_run(tmp_path / "other")
    run.model.trainable_variables = [keras.Variable(np.zeros(2), name="else")]
    path = str(tmp_path / "checkpoint_1")
    assert line_of(checkpoints.restore_initial, path, run.model, run.optimizer) == (
        f"INITIAL_CHECKPOINT_PATH '{path}' shares no weight with the model"
    )
    damage(tmp_path / "checkpoint_1/state.index", "cut")
    for function in (
        lambda: checkpoints.restore_initial(path, run.model, run.optimizer),
        lambda: checkpoints.restore_model(path, run.model),
    ):
        assert line_of(function) == (
            f"checkpoint '{path}' cannot be read: not an sstable (bad magic number)"
        )
