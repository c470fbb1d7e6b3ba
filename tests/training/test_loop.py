"""The loop, with stand-ins for what it calls."""

import signal
from unittest import mock

import pytest

from switch_tf.errors import InputHangs, Interruption, Restart, UserError
from switch_tf.metrics.goodput import Goodput
from switch_tf.training import loop
from switch_tf.training.bad_steps import BadSteps

METRICS = {"loss": 1.0, "routing": {}, "not_finite": []}


def run(monkeypatch, batches, step=7, tells_position=True, steps=None, finish=None):
    """Runs from a step on, with these batches or errors; keeps the steps that are saved."""
    monkeypatch.setattr(loop, "Progress", mock.MagicMock())
    feed = mock.Mock(tokens=(1, 1), wait_seconds=0.0, next=mock.Mock(side_effect=batches))
    run.feed, feed.tells_position = feed, tells_position
    evaluation = mock.Mock(kept=set(), stops_early=False)
    evaluation.is_due.return_value = False
    evaluation.nlp.return_value = -1.0
    checkpoints = run.checkpoints = mock.Mock(path="folder", notes={})
    checkpoints.finish.side_effect = finish
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


@pytest.mark.parametrize("error", [UserError("a bad record"), ValueError("of a preprocessor")])
def test_a_host_whose_record_cannot_be_read_saves_nothing_by_itself(monkeypatch, error):
    """The others are in the step, and would never come to the save."""
    monkeypatch.setattr(loop, "agreement", mock.Mock(is_alone=lambda: False))
    with pytest.raises(type(error), match=str(error)):
        run(monkeypatch, ["one", "two", error])
    assert run.saved == []


def test_that_a_save_fails_too_does_not_hide_why_a_run_ends(monkeypatch, capsys):
    def finish(waits=True):
        if waits:
            raise UserError("the disk is full")

    with pytest.raises(RuntimeError, match="in a step"):
        run(
            monkeypatch,
            ["one", "two", "three"],
            steps=[METRICS, METRICS, RuntimeError("in a step")],
            finish=finish,
        )
    assert "the last checkpoint is not whole: the disk is full" in capsys.readouterr().out


def test_a_signal_after_the_save_for_a_restart_ends_the_run_too(monkeypatch):
    monkeypatch.setattr(loop.Restarts, "due", lambda self, steps: steps == 2)
    signals = mock.MagicMock(number=None)
    signals.__enter__.return_value = signals
    signals.stopped.return_value = False
    monkeypatch.setattr(loop, "StopSignals", lambda: signals)

    def barrier(name):
        signals.number = signal.SIGTERM

    alone = {"is_alone": lambda: True, "any_of": lambda name, flag: flag, "barrier": barrier}
    monkeypatch.setattr(loop, "agreement", mock.Mock(**alone))
    with pytest.raises(Interruption, match="SIGTERM: saved step 9 in folder"):
        run(monkeypatch, ["one", "two", "three"])


@pytest.mark.parametrize("tells_position", [True, False])
def test_a_signal_ends_a_run_whose_data_do_not_come(monkeypatch, tells_position):
    signals = mock.MagicMock(number=signal.SIGTERM)
    signals.__enter__.return_value = signals
    signals.stopped.return_value = False
    monkeypatch.setattr(loop, "StopSignals", lambda: signals)
    kept = "saved step 8" if tells_position else "the last steps are not saved"
    with pytest.raises(Interruption, match=f"^interrupted by SIGTERM: {kept}; no batch$"):
        run(monkeypatch, ["one", InputHangs("no batch")], tells_position=tells_position)
    assert run.saved == [8] * tells_position
    # Slow data are waited for where the step cannot be saved without them.
    (is_over,) = run.feed.next.call_args.args
    assert is_over() == tells_position


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
    signals = mock.MagicMock(number=signal.SIGTERM if comes else None)
    monkeypatch.setattr(loop, "StopSignals", lambda: signals)
    signals.__enter__.return_value = signals
    signals.stopped.side_effect = lambda: comes and bool(run.checkpoints.save.call_args_list)
    with pytest.raises(Interruption if comes else Restart):
        run(monkeypatch, ["one", "two", "three"])
    assert run.saved[0] == 9
