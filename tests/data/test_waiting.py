import signal
import threading
import time

import pytest

from switch_tf.data import waiting
from switch_tf.data.waiting import within
from switch_tf.errors import InputHangs, UserError


def test_the_result_of_a_call_or_its_error():
    assert within(60, lambda: 7, "a batch") == 7

    def fail(error):
        raise error

    for error in (StopIteration(), UserError("a bad record")):
        with pytest.raises(type(error)) as raised:
            within(60, lambda error=error: fail(error), "a batch")
        assert raised.value is error


@pytest.mark.parametrize("remarkable", [False, True])
def test_a_call_that_does_not_return_is_given_up(monkeypatch, capsys, remarkable):
    if remarkable:
        monkeypatch.setattr(waiting, "_UNREMARKABLE", 0.05)
    never, started = threading.Event(), time.monotonic()
    with pytest.raises(InputHangs) as hangs:
        within(0.2, never.wait, "a batch of 'toy', split 'train'")
    assert 0.2 <= time.monotonic() - started < 5
    assert str(hangs.value).startswith(
        "a batch of 'toy', split 'train' has not come within 0.2 s (Input.timeout): "
    )
    assert hangs.value.status == 75
    never.set()
    told = capsys.readouterr().err
    assert ("waiting for a batch of 'toy', split 'train'" in told) or not remarkable


def test_a_signal_is_heard_while_a_call_does_not_return():
    never, heard = threading.Event(), []

    def hear(*_):
        heard.append(time.monotonic())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, hear)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            within(60, never.wait, "a batch")
    finally:
        signal.signal(signal.SIGALRM, before)
        never.set()
    assert heard


def test_a_wait_is_given_up_soon_where_it_is_to_be_over(monkeypatch):
    monkeypatch.setattr(waiting, "_UNREMARKABLE", 0.05)
    monkeypatch.setattr(waiting, "_LOOK_EVERY", 0.05)
    never, asked = threading.Event(), []
    with pytest.raises(InputHangs, match="^a batch does not come; rerun the command to resume$"):
        within(60, never.wait, "a batch", is_over=lambda: asked.append(1) or len(asked) > 2)
    never.set()
    assert len(asked) == 3
    assert within(60, lambda: 7, "a batch", is_over=lambda: True) == 7
