import contextlib
import os
import signal
import subprocess
import sys
import time
import weakref

import keras
import pytest
import tensorflow as tf

from switch_tf import runtime
from switch_tf.errors import Interruption, UserError

ALL_TO_ALL = "DTENSOR_USE_ALL_TO_ALL_RELAYOUT"


@pytest.fixture
def not_started(monkeypatch):
    """This process as one that imported TensorFlow, but did not start."""
    monkeypatch.setattr(runtime, "_started_devices", None)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    return monkeypatch


def line_of(*arguments):
    """The text of the UserError that starting raises."""
    with pytest.raises(UserError) as caught:
        runtime.start(*arguments)
    return str(caught.value)


def test_start_makes_the_devices_and_sets_the_environment():
    code = (
        "import sys\n"
        "from switch_tf import runtime\n"
        "assert 'tensorflow' not in sys.modules\n"
        "runtime.start(3)\n"
        "import os, keras, tensorflow as tf\n"
        f"print(len(tf.config.list_logical_devices('CPU')), os.environ['{ALL_TO_ALL}'],"
        "      keras.config.backend(), keras.config.is_traceback_filtering_enabled(),"
        "      os.environ['TF_ENABLE_ONEDNN_OPTS'],"
        "      tf.config.optimizer.get_experimental_options()['disable_meta_optimizer'])"
    )
    steered = (ALL_TO_ALL, "KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    environment = {k: v for k, v in os.environ.items() if k not in steered}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["3", "1", "tensorflow", "False", "1", "True"], done.stderr


def test_a_second_start_with_no_more_devices_changes_nothing():
    runtime.start(8)
    runtime.start(2)
    assert len(tf.config.list_logical_devices("CPU")) == 8


def test_a_second_start_with_more_devices_is_one_line():
    assert line_of(9) == (
        "9 devices were requested, but this process started with 8: start a new process"
    )


def test_tensorflow_imported_before_the_start_is_one_line(not_started):
    not_started.delenv(ALL_TO_ALL)
    assert line_of(1) == (
        "tensorflow was imported before switch_tf.runtime.start(): relayouts would lower to "
        "all-gathers; call start() first"
    )


def test_a_device_type_that_is_not_there_is_one_line(not_started):
    assert line_of(1, "GPU") == (
        "DEVICE_TYPE='GPU': no GPU device on this machine; leave it out for CPU devices"
    )


def test_a_device_type_that_there_is_not_is_one_line():
    assert line_of(1, "gpu") == "DEVICE_TYPE='gpu': give 'CPU', 'GPU' or 'TPU'"


def test_a_second_start_with_devices_of_another_type_is_one_line():
    assert runtime.device_type() == "CPU"
    assert line_of(1, "TPU") == (
        "TPU devices were requested, but this process started with CPU devices: start a new process"
    )


def test_too_few_accelerators_are_one_line(not_started):
    not_started.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 2)
    assert line_of(4, "GPU") == (
        "MESH_SHAPE needs 4 GPU devices, but this machine has 2: make MESH_SHAPE smaller"
    )


@pytest.mark.parametrize("client, is_chief", [(None, True), ("0", True), ("1", False)])
def test_the_first_process_is_the_chief_and_the_only_one_to_print(
    monkeypatch, capsys, client, is_chief
):
    monkeypatch.delenv("DTENSOR_CLIENT_ID", raising=False)
    if client is not None:
        monkeypatch.setenv("DTENSOR_CLIENT_ID", client)
    assert runtime.is_chief() is is_chief
    runtime.tell("a", "b")
    runtime.tell()
    assert capsys.readouterr().out == ("a\nb\n" if is_chief else "")


def test_a_user_error_in_a_layer_comes_out_as_it_is():
    class Refuses(keras.layers.Layer):
        def call(self, x):
            raise UserError("x is wrong: mend it")

    with pytest.raises(UserError) as caught:
        Refuses()(tf.zeros([1]))
    assert str(caught.value) == "x is wrong: mend it"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_is_interruptible_whatever_a_library_makes_of_it(number, capsys):
    before = signal.getsignal(number)
    for swallowed in (None, ImportError("of a library"), UserError("cannot be imported")):
        with pytest.raises(SystemExit) as stop, runtime.interruptible("a command"):
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
    with pytest.raises(SystemExit) as stop, runtime.interruptible("a command"):
        interrupt(number)
        time.sleep(10)
        raise AssertionError("it went on")
    assert stop.value.code == 128 + number
    told = f"a command: {Interruption(number)}\n"
    assert capsys.readouterr().err == told
    # Where it would have ended by itself.
    with pytest.raises(SystemExit) as stop, runtime.interruptible("a command"):
        interrupt(number)
    assert (stop.value.code, capsys.readouterr().err) == (128 + number, told)
    assert sys.unraisablehook is hook


def test_an_interruption_that_a_library_swallows_ends_the_next_stage(capsys):
    with pytest.raises(SystemExit) as stop, runtime.interruptible("a command"):
        with contextlib.suppress(Interruption):
            os.kill(os.getpid(), signal.SIGINT)
        assert runtime.interrupted_by() == signal.SIGINT
        runtime.check_interrupted()
        raise AssertionError("it went on")
    assert stop.value.code == 130
    with runtime.interruptible("the next command"):
        runtime.check_interrupted()


def test_an_error_in_del_that_is_no_interruption_is_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_value))

    class Fails:
        def __del__(self):
            raise ValueError("a defect")

    with runtime.interruptible("a command"):
        Fails()
    assert [str(error) for error in told] == ["a defect"]


def test_an_error_without_a_signal_goes_through_what_is_interruptible():
    with pytest.raises(ImportError, match="a defect"), runtime.interruptible("a command"):
        raise ImportError("a defect")


def test_of_several_processes_the_first_says_that_it_was_interrupted(monkeypatch, capsys):
    monkeypatch.setenv("DTENSOR_CLIENT_ID", "1")
    with pytest.raises(SystemExit) as stop, runtime.interruptible("a command"):
        raise Interruption(signal.SIGTERM, "saved step 2")
    assert (stop.value.code, capsys.readouterr().err) == (143, "")


def test_what_is_slow_to_take_down_is_kept_only_where_the_process_ends_at_once(monkeypatch):
    class Thing:
        pass

    def is_kept():
        thing = Thing()
        runtime.keep(thing)
        there = weakref.ref(thing)
        del thing
        return there() is not None

    monkeypatch.setattr(runtime, "_kept", None)
    assert not is_kept()
    runtime.ends_at_once()
    assert is_kept()
