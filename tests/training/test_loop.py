"""The loop, with stand-ins for what it calls."""

import signal
from unittest import mock

import pytest

from switch_tf.errors import InputHangs, Interruption, Restart, UserError
from switch_tf.metrics.goodput import Goodput
from switch_tf.training import loop
from switch_tf.training.bad_steps import BadSteps

METRICS = {"loss": 1.0, "routing": {}, "not_finite": []}


def run(monkeypatch, batches, step=7, tells_position=True, steps=None):
    """Runs from a step on, with these batches or errors; keeps the steps that are saved."""
    monkeypatch.setattr(loop, "Progress", mock.MagicMock())
    feed = mock.Mock(tokens=(1, 1), wait_seconds=0.0, next=mock.Mock(side_effect=batches))
    feed.tells_position = tells_position
    evaluation = mock.Mock(kept=set(), stops_early=False)
    evaluation.is_due.return_value = False
    evaluation.nlp.return_value = -1.0
    checkpoints = run.checkpoints = mock.Mock(path="folder", notes={})
    train_step = mock.Mock(return_value=METRICS, side_effect=steps, bad_steps=BadSteps())
    others = mock.Mock(), evaluation, Goodput()
    runs = loop.TrainLoop(step, train_step, feed, checkpoints, *others)
    try:
        runs.run(train_steps=20, checkpoint_period=100)
    finally:
        run.saved = [call.args[0] for call in checkpoints.save.call_args_list]


@pytest.mark.parametrize("error", [UserError("a bad record"), ValueError("of a preprocessor")])
def test_a_step_is_saved_before_a_record_that_cannot_be_read_ends_the_run(monkeypatch, error):
    with pytest.raises(type(error), match=str(error)):
        run(monkeypatch, ["one", "two", error])
    assert run.saved == [9]


def test_nothing_is_saved_where_no_step_was_made(monkeypatch):
    with pytest.raises(UserError):
        run(monkeypatch, [UserError("a bad record")])
    assert run.saved == []


@pytest.mark.parametrize("case, saved", {"alone": [9], "tf.data": [], "several hosts": []}.items())
def test_where_the_data_hang_the_step_is_saved_if_their_position_can_be(monkeypatch, case, saved):
    agreement = mock.Mock(is_alone=lambda: case != "several hosts")
    monkeypatch.setattr(loop, "agreement", agreement)
    hangs = InputHangs("no batch")
    with pytest.raises(InputHangs):
        run(monkeypatch, ["one", "two", hangs], tells_position=case != "tf.data")
    assert run.saved == saved


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_save_that_goes_on_is_finished_where_a_run_ends_badly(monkeypatch, is_alone):
    """Several hosts cannot agree on anything then."""
    monkeypatch.setattr(loop, "agreement", mock.Mock(is_alone=lambda: is_alone))
    with pytest.raises(RuntimeError):
        run(monkeypatch, ["one", "two", "three"], steps=[METRICS, METRICS, RuntimeError()])
    calls = run.checkpoints.finish.call_args_list
    assert calls == [mock.call(waits=False)] * 2 + [mock.call()] * is_alone


@pytest.mark.parametrize("comes", [False, True])
def test_a_signal_while_a_step_is_saved_for_a_restart_ends_the_run(monkeypatch, comes):
    monkeypatch.setattr(loop.Restarts, "due", lambda self, steps: steps == 2)
    signals = mock.MagicMock(number=signal.SIGTERM)
    monkeypatch.setattr(loop, "StopSignals", lambda: signals)
    signals.__enter__.return_value = signals
    signals.stopped.side_effect = lambda: comes and bool(run.checkpoints.save.call_args_list)
    with pytest.raises(Interruption if comes else Restart):
        run(monkeypatch, ["one", "two", "three"])
    assert run.saved[0] == 9
