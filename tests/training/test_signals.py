import contextlib
import os
import signal

import pytest

from switch_tf import process
from switch_tf.errors import Interruption
from switch_tf.training.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_asks_to_stop_and_a_second_one_interrupts(number, capfd):
    before = signal.getsignal(number)
    with pytest.raises(Interruption) as stop, StopSignals() as signals:
        assert not signals.stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stopped() and signals.number == signal.SIGTERM
        told = "SIGTERM: ends after this step or batch, and saves; again to end unsaved\n"
        assert capfd.readouterr().err == told
        os.kill(os.getpid(), number)
    assert stop.value.status == 128 + number
    assert signal.getsignal(number) is before


def test_a_signal_that_was_swallowed_before_asks_to_stop():
    with pytest.raises(SystemExit), process.interruptible("a command"):
        with contextlib.suppress(Interruption):
            os.kill(os.getpid(), signal.SIGTERM)
        with StopSignals() as signals:
            assert signals.stopped() and signals.number == signal.SIGTERM
    assert not StopSignals().stopped()
