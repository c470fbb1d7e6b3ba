import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from switch_tf import stages
from switch_tf.errors import Interruption
from switch_tf.metrics.progress import Progress
from switch_tf.stages import counting, telling


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("at_once", [True, False])
def test_a_stage_tells_that_it_goes_on_and_how_far_it_is(at_once, capsys, monkeypatch):
    monkeypatch.setattr(stages, "_EVERY", 0.1)
    with telling("building the model", at_once) as tell:
        time.sleep(0.15)
        tell("layer 3")
        time.sleep(0.1)
    time.sleep(0.15)
    first, second = ["building the model: 0 s so far", "building the model: layer 3, 0 s so far"]
    expected = ["building the model"] * at_once + [first, second]
    assert capsys.readouterr().err.splitlines() == expected


# Holds the lock of Python's threads, as the loading of a library does, or ends badly.
IMPORTING = textwrap.dedent("""
    import ctypes, os, signal, sys
    from switch_tf import stages

    stages._EVERY = 0.2
    with stages.importing("starting"):
        if sys.argv[1] == "ends":
            ctypes.PyDLL(None).usleep(900_000)
        elif sys.argv[1] == "fails":
            raise SystemExit("failed")
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    print("done", file=sys.stderr)
""")


@pytest.mark.parametrize(
    "end, status, last", [("ends", 0, "done"), ("fails", 1, "failed"), ("killed", -9, None)]
)
def test_an_import_tells_that_it_goes_on_while_no_thread_runs(end, status, last):
    # It ends only once nobody holds its output: the process that tells is gone then.
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, end], stderr=subprocess.PIPE, text=True, timeout=60
    )
    first, *others = done.stderr.splitlines()
    assert (done.returncode, first) == (status, "starting")
    if last is not None:
        assert others.pop() == last
    assert all(re.fullmatch(r"starting: \d+ s so far", line) for line in others)
    if end == "ends":
        assert len(others) >= 2


def test_an_import_that_is_done_already_tells_as_any_stage(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forked"))
    with stages.importing("starting"):
        pass
    assert capsys.readouterr().err == "starting\n"


def test_of_stages_within_each_other_the_innermost_tells(capsys, monkeypatch):
    monkeypatch.setattr(stages, "_EVERY", 0.1)
    with telling("reading", at_once=False):
        with telling("parsing", at_once=False):
            time.sleep(0.25)
        assert set(capsys.readouterr().err.splitlines()) == {"parsing: 0 s so far"}
        time.sleep(0.15)
    # Once or, on a busy machine, more often.
    assert set(capsys.readouterr().err.splitlines()) == {"reading: 0 s so far"}


def test_a_short_stage_is_a_line_and_control_characters_are_for_a_terminal(capsys, monkeypatch):
    with Progress(10), telling("compiling"):
        pass
    assert capsys.readouterr().err == "compiling\n"
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    with Progress(10), telling("compiling"):
        pass
    assert "compiling\n" in shown.getvalue() and "\r" in shown.getvalue()


def test_of_several_processes_the_first_tells_of_stages(capsys, monkeypatch):
    monkeypatch.setattr(stages.runtime, "is_chief", lambda: False)
    with telling("compiling") as tell:
        tell("layer 3")
    assert capsys.readouterr().err == ""


def test_no_stage_begins_after_a_signal_that_was_swallowed(monkeypatch):
    monkeypatch.setattr(stages.process, "_received", [signal.SIGTERM])
    with pytest.raises(Interruption, match="SIGTERM"), telling("compiling"):
        raise AssertionError("it began")


def test_what_counts_says_how_many_and_writes_no_control_characters_to_a_file(capsys, monkeypatch):
    monkeypatch.setattr(stages, "_EVERY", 0.1)
    with counting("reading", "files", 2000) as add:
        add(1)
        add(1500)
        time.sleep(0.15)
    with counting("reading", "files", at_once=False) as add:
        add(7)
        time.sleep(0.15)
    told = ["reading", "reading: 1,501 of 2,000 files, 0 s so far", "reading: 7 files, 0 s so far"]
    assert capsys.readouterr().err.splitlines() == told
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    with counting("reading", "files", 2000) as add:
        add(500)
    assert "\r" in shown.getvalue() and "500/2000" in shown.getvalue()
