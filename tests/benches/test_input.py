import os
import threading

import numpy as np
import pytest

from switch_tf.benches import input as bench
from switch_tf.benches.timing import Spread

# Rounds of seconds, tokens that are no padding, positions.
DELIVERED = np.array([[2.0, 1500, 2000], [2.0, 3000, 4000], [1.0, 2500, 3000]])
# Rounds of seconds, steps, positions.
CONSUMED = np.array([[4.0, 2, 2000], [4.0, 1, 1000], [2.0, 2, 2000]])


class Clock:
    """Seconds that pass when something is done, and not else."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds, counts):
        self.now += seconds
        return np.array(counts)


def test_a_round_ends_with_the_call_in_which_its_seconds_pass():
    clock = Clock()
    found = bench.timed_rounds(lambda: clock.spend(0.75, [3, 5]), 2, 2, clock)
    np.testing.assert_array_equal(found, [[2.25, 9, 15], [2.25, 9, 15]])


def test_a_call_longer_than_a_round_is_a_round():
    clock = Clock()
    found = bench.timed_rounds(lambda: clock.spend(7.0, [1]), 3, 2, clock)
    np.testing.assert_array_equal(found, [[7.0, 1]] * 3)


def test_the_ratio_is_of_positions_a_second_and_its_extremes_are_of_extremes():
    # 1000, 2000 and 3000 a second against 500, 250 and 1000.
    assert bench.ratio(DELIVERED, CONSUMED) == Spread(median=4.0, lowest=1.0, highest=12.0)


def cells(line):
    """Name and numbers of a row of a table."""
    *name, median, lowest, highest = line.split()
    return " ".join(name), *(float(cell.replace(",", "")) for cell in (median, lowest, highest))


def test_the_lines_on_the_input_have_both_rates_and_the_padding():
    heading, *rows = bench.input_lines(DELIVERED)
    assert heading.split() == ["median", "lowest", "highest"]
    assert [cells(row) for row in rows] == [
        ("positions/s", 2000, 1000, 3000),
        ("tokens/s, without padding", 1500, 750, 2500),
        ("padding, %", 25.0, 16.7, 25.0),
    ]


def test_the_lines_on_the_model_have_its_step_and_its_rate():
    heading, *rows = bench.model_lines(CONSUMED)
    assert heading.split() == ["median", "lowest", "highest"]
    assert [cells(row) for row in rows] == [
        ("seconds per step", 2.0, 1.0, 4.0),
        ("positions/s", 500, 250, 1000),
    ]


def test_an_input_that_is_enough_is_told_with_its_share_of_a_core():
    assert bench.verdict(DELIVERED, CONSUMED, use_cached=False) == (
        "one core delivers 4.0 times what the model consumes (1.0 to 12.0): feeding it takes 25.0% "
        "of a core"
    )


@pytest.mark.parametrize(
    "use_cached, mend", [(False, "cache the task, so that"), (True, "move preprocessors of")]
)
def test_an_input_that_is_too_slow_is_told_with_the_mend(use_cached, mend):
    line = bench.verdict(DELIVERED / [1, 8, 8], CONSUMED, use_cached)
    assert line.startswith(
        "one core delivers 0.5 times what the model consumes (0.1 to 1.5): the run will be input "
        f"bound; {mend} "
    )


def test_all_threads_keep_to_one_core_and_then_no_longer():
    before = os.sched_getaffinity(0)
    stop = threading.Event()

    def affinities():
        return [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]

    threads = [threading.Thread(target=stop.wait)]
    threads[0].start()
    try:
        with bench.one_core():
            threads.append(threading.Thread(target=stop.wait))
            threads[1].start()
            held = affinities()
        assert held == [{min(before)}] * len(held)
        assert len(held) >= 3
        assert affinities() == [before] * len(held)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_figures_are_quartiles_over_rounds():
    found = bench.figures(DELIVERED, CONSUMED)
    assert found["input_positions_per_second"] == 2000
    assert found["input_positions_per_second_lower_quartile"] == 1500
    assert found["input_tokens_per_second_upper_quartile"] == 2000
    assert found["padding_share"] == 0.25
    assert found["step_seconds"] == 2.0
    assert found["input_over_step"] == 4.0
