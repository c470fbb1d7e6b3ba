import pytest

from switch_tf.metrics import goodput
from switch_tf.metrics.goodput import Goodput


class Clock:
    """A clock that is put forward by hand."""

    now = 1000.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def test_every_second_is_of_one_kind(clock):
    found = Goodput(clock)
    clock.wait(8.0)
    found.started()
    clock.wait(5.0)
    found.add("input", 1.0)
    found.add("compiling", 4.0)
    clock.wait(2.0)
    found.add("steps", 2.0)
    with pytest.raises(KeyError), found.within("saving"):
        clock.wait(3.0)
        raise KeyError
    clock.wait(0.5)
    expected = {"start": 8.0, "input": 1.0, "compiling": 4.0, "steps": 2.0, "saving": 3.0}
    whole = dict.fromkeys(goodput.KINDS, 0.0) | expected | {"other": 0.5}
    assert found.seconds() == whole
    # Once more, nothing has passed.
    assert found.seconds() == whole
    assert found.line() == (
        "time: 18 s: steps 11%, start 43%, compiling 22%, input 5%, saving 16%, other 3%"
    )


def test_a_run_that_resumes_counts_what_was_before_and_the_steps_that_it_makes_again(clock):
    found = Goodput(clock)
    clock.wait(2.0)
    found.started()
    found.resume({"steps": 90.0, "start": 4.0, "unknown": 7.0}, lost=4.0)
    seconds = found.seconds()
    assert seconds["steps"] == 90.0 and seconds["start"] == 6.0 and seconds["lost"] == 4.0
    shares = goodput.shares(seconds)
    assert shares["steps"] == 0.9 and shares["lost"] == 0.04 and sum(shares.values()) == 1.0
    assert found.line() == "time: 100 s: steps 90%, start 6%, steps lost to restarts 4%"


def test_the_time_of_a_command_begins_before_that_of_its_run(monkeypatch):
    monkeypatch.setattr(goodput.time, "monotonic", clock := Clock())
    with goodput.of_command():
        clock.wait(9.0)
        found, other = Goodput(clock), Goodput(clock)
    # A command that ended without a run.
    with goodput.of_command():
        pass
    clock.wait(5.0)
    after = Goodput(clock)
    after.started()
    assert after.seconds()["start"] == 0.0
    clock.now -= 5.0
    found.started()
    other.started()
    assert found.seconds()["start"] == 9.0 and other.seconds()["start"] == 0.0


def test_no_time_has_no_shares():
    assert goodput.shares({"steps": 0.0}) == {"steps": 0.0}
