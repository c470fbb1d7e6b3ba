import os
import signal

import gin
import numpy as np
import pytest
import tensorflow as tf

from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.data.feed import Feed
from switch_tf.errors import Interruption, UserError
from switch_tf.metrics.progress import Progress
from switch_tf.metrics.writer import read_metrics
from switch_tf.training.bad_steps import BadSteps
from tests.training.test_train import losses, pretrain, records

# A run evaluates itself at its last step alone.
RUN = {"EVAL_PERIOD": 100, "CHECKPOINT_PERIOD": 1, "train.keep_checkpoints": 9}
NAN = float("nan")


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def spoil(monkeypatch, *numbers):
    """Has the batches of these numbers, from 1, a loss that is not a number."""
    read = Feed.next

    def spoilt(self, *is_over):
        self.read = getattr(self, "read", 0) + 1
        batch = read(self, *is_over)
        if self.read in numbers:
            name = "decoder_loss_weights"
            batch[name] = tf.cast(batch[name], tf.float32) * NAN
        return batch

    def skip(self, batches):
        self.read = getattr(self, "read", 0) + batches
        skip_unseen(self, batches)

    skip_unseen = Feed.skip
    monkeypatch.setattr(Feed, "next", spoilt)
    monkeypatch.setattr(Feed, "skip", skip)


def tensors(path):
    """Name -> value in a checkpoint."""
    reader = tf.train.load_checkpoint(ModelDir(str(path)).path + "/state")
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if "step" not in name}


def test_a_loss_is_bad_if_it_is_not_finite_or_above_the_mean_by_more_than_is_allowed():
    bad = BadSteps(spike=1.0, window=3)
    assert bad.fault(NAN) == "loss is nan" and bad.fault(float("inf")) == "loss is inf"
    assert bad.fault(1.0, is_finite=False).startswith("a gradient is not finite")
    for loss in (9.0, 5.0, 4.0, 3.0):
        assert bad.fault(loss) is None
        bad.passed(loss)
    assert bad.fault(5.0) is None
    assert bad.fault(5.25) == "loss is 5.25, 1.25 above the mean of the last 3 steps,"
    assert BadSteps().fault(1e9) is None


def test_so_many_bad_steps_are_passed_over():
    bad = BadSteps(policy="skip", most=2)
    found = []
    for _ in range(3):
        bad.count += 1
        found.append(bad.stops())
    assert found == [False, False, True]
    assert BadSteps().stops()


def test_a_run_that_resumes_knows_the_last_losses_and_how_many_steps_were_bad():
    bad = BadSteps(policy="skip", spike=1.0, window=2)
    assert bad.state() == {}
    for loss in (3.0, 2.0, 1.0):
        bad.passed(loss)
    bad.count = 4
    other = BadSteps(policy="skip", spike=1.0, window=2)
    other.restore(bad.state())
    assert other.state() == bad.state() == {"bad_steps": 4, "losses": [2.0, 1.0]}
    other.restore({}, keeps_count=True)
    assert other.state() == {"bad_steps": 4}


def test_a_run_that_stops_keeps_the_batch(tmp_path, monkeypatch):
    spoil(monkeypatch, 2)
    with pytest.raises(UserError) as told:
        pretrain(tmp_path, **RUN)
    kept = f"{tmp_path}/bad_steps/step_2.npz"
    assert str(told.value).startswith(
        "loss is nan at step 2; first non-finite value: the loss itse"
    )
    assert f"; its batch is kept in {kept}; the last checkpoint in {tmp_path} is" in str(told.value)
    with np.load(kept) as batch:
        assert batch["encoder_input_tokens"].shape == (4, 8)
        assert np.isnan(batch["decoder_loss_weights"]).any()
    assert ModelDir(str(tmp_path)).steps() == [1]


def test_an_update_is_left_out_and_all_else_goes_on_also_after_a_restart(
    tmp_path, monkeypatch, capsys
):
    skips = RUN | {"TRAIN_STEPS": 4, "BadSteps.policy": "skip"}
    with monkeypatch.context() as patch:
        spoil(patch, 2)
        pretrain(tmp_path / "whole", **skips)
    told = capsys.readouterr().err
    assert "loss is nan at step 2; first non-finite value: the loss itself" in told
    assert "; its update is left out (1 so far)" in told
    assert list(losses(tmp_path / "whole")) == [1, 3, 4]
    (bad,) = records(tmp_path / "whole", "bad_step")
    assert (bad["step"], bad["bad_step"], bad["why"]) == (2, 2, "loss is nan")
    first, second, third = (tensors(tmp_path / f"whole/checkpoint_{step}") for step in (1, 2, 3))
    assert all((first[name] == second[name]).all() for name in first)
    assert any((first[name] != third[name]).any() for name in first)
    update = Progress.update

    def stop_at_three(self, step, *args):
        update(self, step, *args)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interruption):
        spoil(patch, 2)
        patch.setattr(Progress, "update", stop_at_three)
        pretrain(tmp_path / "stopped", **skips)
    pretrain(tmp_path / "stopped", **skips)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    for name, value in tensors(tmp_path / "stopped/checkpoint_4").items():
        np.testing.assert_array_equal(value, tensors(tmp_path / "whole/checkpoint_4")[name])


def test_where_nothing_is_bad_the_steps_are_those_of_another_policy(tmp_path):
    run = RUN | {"TRAIN_STEPS": 3, "CHECKPOINT_PERIOD": 3}
    pretrain(tmp_path / "stop", **run)
    pretrain(tmp_path / "skip", **run, **{"BadSteps.policy": "skip"})
    assert losses(tmp_path / "skip") == losses(tmp_path / "stop")
    stop = tensors(tmp_path / "stop/checkpoint_3")
    for name, value in tensors(tmp_path / "skip/checkpoint_3").items():
        np.testing.assert_array_equal(value, stop[name])


def test_a_run_goes_back_and_on_behind_the_bad_batch(tmp_path, monkeypatch, capsys):
    backs = {"TRAIN_STEPS": 4, "BadSteps.policy": "back", "BadSteps.back_steps": 2}
    with monkeypatch.context() as patch:
        # Batches 1 and 2, then of 3 and 4 the latter is bad, then 5 and 6.
        spoil(patch, 4)
        pretrain(tmp_path / "run", **RUN | backs)
    assert "; back to step 2, and on behind that batch (1 so far)" in capsys.readouterr().err
    assert list(losses(tmp_path / "run")) == [1, 2, 3, 4]
    (bad,) = records(tmp_path / "run", "bad_step")
    assert (bad["step"], bad["bad_step"]) == (2, 4)
    assert records(tmp_path / "run", "goodput")[-1]["lost"] > 0
    assert ModelDir(str(tmp_path / "run")).steps() == [1, 2, 3, 4]
    # The same by hand: a run of two steps that then reads from the fifth batch on.
    pretrain(tmp_path / "hand", **RUN | {"TRAIN_STEPS": 2})
    with monkeypatch.context() as patch:
        read = Feed.next

        def skipped(self, *is_over):
            if not hasattr(self, "skipped"):
                self.skipped = True
                self.skip(2)
            return read(self, *is_over)

        patch.setattr(Feed, "next", skipped)
        pretrain(tmp_path / "hand", **RUN | {"TRAIN_STEPS": 4})
    assert losses(tmp_path / "run") == losses(tmp_path / "hand")


def test_without_a_checkpoint_so_far_back_the_run_stops(tmp_path, monkeypatch):
    backs = {"TRAIN_STEPS": 3, "BadSteps.policy": "back", "BadSteps.back_steps": 2}
    spoil(monkeypatch, 2)
    with pytest.raises(
        UserError, match="no checkpoint of step 0 or before in .* to go back to: lo"
    ):
        pretrain(tmp_path, **RUN | backs)
    assert ModelDir(str(tmp_path)).steps() == [1]
    assert read_metrics(str(tmp_path))
