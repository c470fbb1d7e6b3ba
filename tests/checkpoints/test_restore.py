import keras
import numpy as np

from switch_tf.checkpoints import restore
from tests.checkpoints.runs import damage, fill, line_of, save_steps, small_run


def test_another_run_starts_from_the_weights_alone(tmp_path):
    saver = small_run(tmp_path, 3.0, old=(2,))
    fill(saver.optimizer.slots)
    next(saver.iterator)
    saver.checkpoints.save(5)
    run = small_run(tmp_path / "other", new=(2,))
    report = restore.restore_initial(str(tmp_path), run.model, run.optimizer)
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
    assert line_of(restore.restore_initial, path, run.model, run.optimizer) == (
        f"INITIAL_CHECKPOINT_PATH '{path}' shares no weight with the model"
    )
    damage(tmp_path / "checkpoint_1/state.index", "cut")
    for function in (
        lambda: restore.restore_initial(path, run.model, run.optimizer),
        lambda: restore.restore_model(path, run.model),
    ):
        assert line_of(function) == (
            f"checkpoint '{path}' cannot be read: not an sstable (bad magic number)"
        )
