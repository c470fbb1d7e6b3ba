import subprocess
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from switch_tf import gin_files
from switch_tf.checkpoints import restore
from switch_tf.checkpoints.save import save_model
from switch_tf.errors import StorageFails
from tests.checkpoints.runs import damage, fill, line_of, save_steps, small_run


def test_another_run_starts_from_the_weights_alone(tmp_path):
    saver = small_run(tmp_path, 3.0, old=(2,))
    fill(saver.optimizer.slots)
    next(saver.iterator)
    saver.checkpoints.save(5)
    run = small_run(tmp_path / "other", new=(2,))
    differ = {"fresh": ["new"], "skipped": ["ol."]}
    report = restore.restore_initial(str(tmp_path), run.model, run.optimizer, **differ)
    assert [float(weight.numpy().flat[0]) for weight in run.weights] == [3.0, 0.0]
    assert not any(slot.numpy().any() for slot in run.optimizer.slots.values())
    assert int(next(run.iterator)) == 0
    assert str(report) == (
        f"initial checkpoint {tmp_path / 'checkpoint_5'}: 1 variables restored, 1 (new) "
        "fresh, 1 (old) skipped; 2 optimizer slots fresh"
    )


def model_of(*paths):
    """A model of weights at the paths."""
    weights = [types.SimpleNamespace(path=path, value=tf.Variable([0.0])) for path in paths]
    return types.SimpleNamespace(trainable_variables=weights)


def test_weights_that_one_of_model_and_checkpoint_lacks_are_refused_by_layer(tmp_path):
    """The largest layers are named that the other has nothing of."""
    kept = "layer_1/norm"
    sparse = model_of("layer_1/switch_ffn/wi", "layer_1/switch_ffn/router", kept)
    dense = model_of(kept, "layer_1/ffn/wi", "layer_10/wi", *(f"layer_1{n}/norm" for n in range(3)))
    path = str(tmp_path / "model")
    save_model(path, sparse)

    def start(**patterns):
        optimizer = types.SimpleNamespace(slots={})
        return restore.restore_initial(path, dense, optimizer, **patterns)

    assert line_of(start) == (
        f"INITIAL_CHECKPOINT_PATH '{path}' lacks layer_1/ffn/, layer_10/, layer_11/ and 1 more of "
        "the model (they would start fresh) and has layer_1/switch_ffn/ that the model lacks (they "
        "would be skipped): use the gin/models file that it was trained with, or allow it with "
        "regular expressions, --gin.INITIAL_CHECKPOINT_FRESH=\"['/ffn/', 'layer_10/', 'layer_11/', "
        "'layer_12/']\" --gin.INITIAL_CHECKPOINT_SKIPPED=\"['switch_ffn/']\""
    )
    line = line_of(lambda: start(fresh=["/ffn/", r"layer_\d\d/"]))
    assert "lacks" in line and "FRESH" not in line
    report = start(fresh=["/ffn/", r"layer_\d\d/"], skipped=["switch_ffn"])
    assert len(report.fresh) == 5 and len(report.skipped) == 2


@pytest.mark.parametrize(
    ("ours", "saved", "given"),
    [
        ([f"encoder/layer_{n}/ffn/wi" for n in range(24)], ["encoder/layer_0/switch_ffn/wi"], []),
        (["encoder/layer_2/wi", "decoder/layer_2/wi"], ["decoder/layer_1/wi"], []),
        (["own/$HOME (1)/w+", "own/[a/w"], ["own/norm"], []),
        (["scale"], ["layer/scale_2", "rescale"], []),
        (["layer_2/wi", "layer_3/wi"], ["norm"], [r"\blayer_2\b"]),
    ],
)
def test_the_flags_that_allow_it_can_be_pasted_as_they_stand(tmp_path, ours, saved, given):
    path = str(tmp_path / "model")
    save_model(path, model_of("kept", *saved))
    optimizer, model = types.SimpleNamespace(slots={}), model_of("kept", *ours)
    line = line_of(lambda: restore.restore_initial(path, model, optimizer, fresh=given))
    flags = line.partition("regular expressions, ")[2]
    pasted = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {flags}"], capture_output=True, text=True
    )
    read = [flag.removeprefix("--gin.") for flag in pasted.stdout.splitlines()]
    patterns = gin_files.read([], read).literals()
    assert len(patterns["INITIAL_CHECKPOINT_FRESH"]) <= 2
    allowed = {name.rpartition("_")[2].lower(): value for name, value in patterns.items()}
    report = restore.restore_initial(path, model, optimizer, **allowed)
    assert (len(report.fresh), len(report.skipped)) == (len(ours), len(saved))


def test_an_initial_checkpoint_that_cannot_serve_is_one_line(tmp_path):
    save_steps(tmp_path, [1])
    run = small_run(tmp_path / "other")
    run.model.trainable_variables = [keras.Variable(np.zeros(2), name="else")]
    path = str(tmp_path / "checkpoint_1")
    assert line_of(restore.restore_initial, path, run.model, run.optimizer) == (
        f"INITIAL_CHECKPOINT_PATH '{path}' shares no weight with the model"
    )
    damage(tmp_path / "checkpoint_1/state.index", "cut")
    for function in (
        lambda: restore.restore_initial(path, run.model, run.optimizer),
        lambda: restore.restore_model(path, run.model),
    ):
        assert line_of(function) == (
            f"checkpoint '{path}' is damaged (not an sstable (bad magic number)): copy it again"
        )


def test_of_damaged_weights_the_line_tells_another_checkpoint_of_the_folder(tmp_path):
    save_steps(tmp_path, [1, 2, 3])
    run = small_run(tmp_path / "other")
    tensors = tmp_path / "checkpoint_3/state.data-00000-of-00001"
    tensors.write_bytes(bytes(byte ^ 0xFF for byte in tensors.read_bytes()))
    path = str(tmp_path / "checkpoint_3")
    for function in (
        lambda: restore.restore_initial(str(tmp_path), run.model, run.optimizer),
        lambda: restore.restore_model(f"{path}/", run.model),
    ):
        line = line_of(function)
        assert "Checksum does not match" in line and "[Op:" not in line and "{{" not in line
        assert line.endswith(f": use another, such as {tmp_path}/checkpoint_2, or copy it again")


def test_a_checkpoint_that_may_be_whole_is_not_called_damaged(tmp_path):
    save_steps(tmp_path, [1])
    run = small_run(tmp_path / "other")

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restore.tensor_files, "read", forbidden)
        line = line_of(restore.restore_model, str(tmp_path / "checkpoint_1"), run.model)
    assert line.endswith("checkpoint_1' cannot be read: [Errno 13] Permission denied")


def test_a_remote_checkpoint_that_cannot_be_read_for_now_is_not_called_damaged():
    def fail():
        raise tf.errors.InternalError(None, None, "HTTP 503")

    with pytest.raises(StorageFails, match="^checkpoint 'gs://b/checkpoint_1' cannot be read: HTT"):
        restore._read("gs://b/checkpoint_1", fail)
