import io

import pytest

from switch_tf.metrics import progress as progress_lib
from switch_tf.metrics.progress import Progress

RATES = {"tokens_per_second": 12345.6, "input_wait_share": 0.253}
SPARSE = {"a": {"dropped": 0.1}, "b": {"dropped": 0.2}}
LINE = "loss 5.123  nlp -4.568  tokens/s 12,346  input wait 25%"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A list of one: the time in seconds, for the test to set."""
    now = [1000.0]
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard error a terminal; called within the test, where pytest no longer swaps it."""

    def make():
        stream = Terminal()
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return make


def metrics_of(routing=None):
    return {"loss": 5.1234, "nlp": -4.5678, "routing": routing or {}}


def test_where_there_is_no_terminal_a_step_is_a_plain_line(capsys):
    with Progress(10) as progress:
        progress.update(1, metrics_of(), RATES)
    assert capsys.readouterr().err == f"step 1/10  {LINE}\n"


def test_the_dropped_share_is_the_mean_over_switch_layers(capsys):
    with Progress(10) as progress:
        progress.update(1, metrics_of(SPARSE), RATES)
    assert capsys.readouterr().err == f"step 1/10  {LINE}  dropped 15.0%\n"


def test_lines_come_now_and_then_and_at_the_last_step(capsys, clock):
    with Progress(8) as progress:
        for step, seconds in enumerate([0, 1, 7, 9, 10, 17, 17, 17], start=1):
            clock[0] = 1000.0 + seconds
            progress.update(step, metrics_of(), RATES)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/8", "step 4/8", "step 8/8"]


def test_a_terminal_shows_a_bar_and_no_lines(terminal):
    shown = terminal()
    with Progress(10, initial=6) as progress:
        progress.update(7, metrics_of(SPARSE), RATES)
        progress.update(8, metrics_of(SPARSE), RATES)
    last = shown.getvalue().rstrip().split("\r")[-1]
    assert " 8/10 " in last and "80%" in last
    for figure in ("loss=5.123", "nlp=-4.568", "tokens/s=12,346", "input wait=25%"):
        assert figure in last
    assert "dropped=15.0%" in last
    assert "step 7/10" not in shown.getvalue()


def test_a_saying_is_a_line_of_its_own(terminal):
    shown = terminal()
    with Progress(10) as progress:
        progress.say("SIGTERM received")
    assert "SIGTERM received\n" in shown.getvalue()


def test_a_process_that_is_not_the_chief_shows_nothing(terminal, monkeypatch):
    monkeypatch.setattr(progress_lib.runtime, "is_chief", lambda: False)
    shown = terminal()
    for is_terminal in (True, False):
        monkeypatch.setattr(shown, "isatty", lambda is_terminal=is_terminal: is_terminal)
        with Progress(1) as progress:
            progress.update(1, metrics_of(), RATES)
            progress.say("SIGTERM received")
    assert shown.getvalue() == ""


def test_a_saying_needs_no_terminal(capsys):
    with Progress(10) as progress:
        progress.say("SIGTERM received")
    assert capsys.readouterr().err == "SIGTERM received\n"
