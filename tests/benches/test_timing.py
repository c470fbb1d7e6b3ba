import itertools
import time

import pytest

from switch_tf.benches.timing import Spread, time_in_turn


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a call spends, in the place of the machine's."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def spending(seconds):
        """A call that takes each of these seconds in turn, over and over."""
        taken = itertools.cycle(seconds)

        def call():
            now[0] += next(taken)

        return call

    return spending


def test_calls_are_made_in_turn_and_each_round_is_timed(clock):
    found = time_in_turn({"a": clock([1.0, 5.0, 2.0]), "b": clock([4.0])}, rounds=3)
    assert found == {"a": Spread(2.0, 1.0, 5.0), "b": Spread(4.0, 4.0, 4.0)}


def test_rounds_go_on_until_the_seconds_have_passed(clock):
    found = time_in_turn({"a": clock([1.0, 2.0, 3.0, 0.5])}, seconds=5.5)
    assert found == {"a": Spread(2.0, 1.0, 3.0)}


def test_the_extremes_of_a_ratio_are_of_extremes():
    assert Spread(4.0, 2.0, 6.0).over(Spread(2.0, 1.0, 4.0)) == Spread(2.0, 0.5, 6.0)
