import contextlib
import os
import signal
import sys
import time
import weakref

import pytest

from switch_tf import process
from switch_tf.errors import Interruption, UserError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_is_interruptible_whatever_a_library_makes_of_it(number, capsys):
    before = signal.getsignal(number)
    for swallowed in (None, ImportError("of a library"), UserError("cannot be imported")):
        with pytest.raises(SystemExit) as stop, process.interruptible("a command"):
            try:
                os.kill(os.getpid(), number)
            except Interruption as interruption:
                raise swallowed or interruption from None
        assert stop.value.code == 128 + number
        assert capsys.readouterr().err.startswith(f"a command: interrupted by {number.name}: ")
        assert signal.getsignal(number) is before


class InDel:
    """Whose end interrupts the process, at a place where Python discards exceptions."""

    def __init__(self, number):
        self._number = number

    def __del__(self):
        os.kill(os.getpid(), self._number)


def in_del(number):
    InDel(number)


class _Referred:
    """What a weak reference refers to."""


def in_weakref(number):
    thing = _Referred()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
    del thing
    assert reference() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("interrupt", [in_del, in_weakref])
def test_an_interruption_that_python_discards_ends_what_goes_on(number, interrupt, capsys):
    hook = sys.unraisablehook
    with pytest.raises(SystemExit) as stop, process.interruptible("a command"):
        interrupt(number)
        time.sleep(10)
        raise AssertionError("it went on")
    assert stop.value.code == 128 + number
    told = f"a command: {Interruption(number)}\n"
    assert capsys.readouterr().err == told
    # Where it would have ended by itself.
    with pytest.raises(SystemExit) as stop, process.interruptible("a command"):
        interrupt(number)
    assert (stop.value.code, capsys.readouterr().err) == (128 + number, told)
    assert sys.unraisablehook is hook


def test_an_interruption_that_a_library_swallows_ends_the_next_stage(capsys):
    with pytest.raises(SystemExit) as stop, process.interruptible("a command"):
        with contextlib.suppress(Interruption):
            os.kill(os.getpid(), signal.SIGINT)
        assert process.interrupted_by() == signal.SIGINT
        process.check_interrupted()
        raise AssertionError("it went on")
    assert stop.value.code == 130
    with process.interruptible("the next command"):
        process.check_interrupted()


def test_an_error_in_del_that_is_no_interruption_is_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_value))

    class Fails:
        def __del__(self):
            raise ValueError("a defect")

    with process.interruptible("a command"):
        Fails()
    assert [str(error) for error in told] == ["a defect"]


def test_an_error_without_a_signal_goes_through_what_is_interruptible():
    with pytest.raises(ImportError, match="a defect"), process.interruptible("a command"):
        raise ImportError("a defect")


def test_of_several_processes_the_first_says_that_it_was_interrupted(monkeypatch, capsys):
    monkeypatch.setenv("DTENSOR_CLIENT_ID", "1")
    with pytest.raises(SystemExit) as stop, process.interruptible("a command"):
        raise Interruption(signal.SIGTERM, "saved step 2")
    assert (stop.value.code, capsys.readouterr().err) == (143, "")


def test_what_is_slow_to_take_down_is_kept_only_where_the_process_ends_at_once(monkeypatch):
    class Thing:
        pass

    def is_kept():
        thing = Thing()
        process.keep(thing)
        there = weakref.ref(thing)
        del thing
        return there() is not None

    monkeypatch.setattr(process, "_kept", None)
    assert not is_kept()
    process.ends_at_once()
    assert is_kept()
