import math

import pytest

from switch_tf.reproduce.result import Result, difference
from tests.reproduce import logs


def make(*records, sittings=(), settings=None, diverged_at=None):
    return Result.of("run", settings or {}, {"parameters": 10}, records, sittings, diverged_at)


def step(number, **figures):
    return {"step": number, "kind": "train"} | figures


def test_it_is_read_as_it_was_written(tmp_path):
    found = make(
        logs.evaluation(5, "t", nlp=-1.23456789, tokens=7),
        step(6, seconds=1.0, tokens_per_second=10.0),
        settings={"SEED": 1, "values": (1, 2)},
        sittings=[{"seconds": 60.0, "others": 0.1, "cores": 2, "at_once": 2}],
    )
    path = tmp_path / "deep" / "result.json"
    found.write(path)
    assert Result.read(path) == found
    assert len(path.read_text().splitlines()) == 12
    assert found.evaluations == [{"step": 5, "task": "t", "nlp": -1.234568, "tokens": 7}]


def test_the_first_steps_are_not_timed():
    first = [step(n, seconds=100.0, tokens_per_second=1.0) for n in range(1, 6)]
    later = [step(n, seconds=s, tokens_per_second=1 / s) for n, s in ((6, 1.0), (7, 2.0), (8, 4.0))]
    found = make(*first, *later)
    assert (found.seconds_per_step, found.tokens_per_second) == (2.0, 0.5)
    assert math.isnan(make(*first).seconds_per_step)


def test_the_load_is_the_mean_over_the_last_fifty_steps_that_logged_it():
    def routed(number, *load):
        return step(number, routing={"layer": {"load_E": list(load)}})

    found = make(routed(10, 1.0, 0.0), routed(60, 0.5, 0.5), step(80), routed(100, 0.25, 0.75))
    assert found.load == {"layer": [0.375, 0.625]}
    assert make(step(1)).load == {}


def test_core_hours_count_the_cores_that_a_run_had():
    shared = {"seconds": 1800.0, "others": 0.0, "cores": 2, "at_once": 2}
    alone = {"seconds": 1800.0, "others": 0.0, "cores": 2, "at_once": 1}
    assert make(sittings=[shared, alone]).core_hours == 0.5 + 1.0


def test_the_largest_notable_load_of_others_is_told():
    sittings = [{"seconds": 60.0, "others": others, "cores": 2} for others in (0.05, 0.6, 0.3)]
    assert make(sittings=sittings).slowed_by().share == 0.3
    assert make(sittings=sittings[:1]).slowed_by() is None


@pytest.mark.parametrize(
    "now, found",
    [
        ({"SEED": 0, "MODEL_DIR": "/elsewhere", "LOG_PERIOD": 3}, None),
        ({"SEED": 0, "TRAIN_STEPS": 5}, None),
        ({"SEED": 1}, ("SEED", 0, 1)),
        ({"SEED": 0, "NEW": (1,)}, ("NEW", None, [1])),
    ],
)
def test_runs_differ_by_what_changes_figures(now, found):
    assert difference({"SEED": 0, "MODEL_DIR": "/here"}, now) == found
