import math

from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.reproduce import metrics
from switch_tf.reproduce.metrics import Curve
from switch_tf.reproduce.result import Result
from tests.reproduce import logs


def result(*evaluations, diverged_at=None):
    records = [{"kind": "evaluation"} | record for record in evaluations]
    facts = {"tokens_per_step": 100}
    steps = [
        {"step": n, "kind": "train", "tokens_per_second": 50.0, "seconds": 2.0} for n in (6, 7)
    ]
    settings = {"BATCH_SIZE": 10}
    return Result.of("run", settings, facts, [*records, *steps], [], diverged_at)


def test_a_figure_is_that_of_the_tasks_last_evaluation():
    found = result(
        *(logs.evaluation(n, "a", nlp=-float(n)) for n in (3, 2)), logs.evaluation(4, "b", nlp=0.0)
    )
    assert metrics.evaluated("a", "nlp")(found) == -2.0
    assert metrics.evaluated("a", "accuracy")(found) is None
    assert metrics.evaluated("c", "nlp")(found) is None
    assert metrics.evaluated("a", "nlp", step=3)(found) == -3.0
    assert metrics.evaluated("a", "nlp", step=5)(found) is None
    assert metrics.fact("tokens_per_step", 0.01)(found) == 1.0


def test_a_run_that_diverged_is_behind_all_others():
    found = result(logs.evaluation(3, "a", nlp=-3.0), diverged_at=5)
    assert metrics.evaluated("a", "nlp")(found) == -math.inf
    metric = metrics.Metric("NLP", metrics.evaluated("a", "nlp"))
    assert metric.number(-math.inf) == "diverged"


def test_the_best_of_several_tasks_is_the_mean_of_each_ones_best_evaluation():
    read = metrics.best({"a": "accuracy", "b": "accuracy"})
    records = [logs.evaluation(n, "a", accuracy=10.0 * n) for n in (1, 3, 2)]
    assert read(result(*records)) is None
    assert read(result(*records, logs.evaluation(1, "b", accuracy=50.0))) == 40.0


def test_steps_and_minutes_to_a_quality():
    found = result(*(logs.evaluation(n, "a", nlp=n / 10 - 6) for n in (10, 20)))
    assert metrics.steps_to("a", -4.5)(found) == 15.0
    assert metrics.minutes_to("a", -4.5)(found) == 0.5
    assert metrics.steps_to("a", -3.0)(found) == math.inf
    assert metrics.minutes_to("b", -4.5)(found) is None
    reached = metrics.Metric("minutes", metrics.minutes_to("a", -3.0), sign=-1)
    assert reached.number(reached.read(found)) == "not reached"


def test_speed_is_told_in_rows_of_a_batch():
    assert metrics.examples_per_second(result()) == 5.0


def test_the_mean_of_curves_has_the_steps_that_all_of_them_have():
    curves = [Curve((10, 20), (-4.0, -3.0), (-4.0, -3.0), 1.0), Curve((10,), (-5.0,), (-4.0,), 3.0)]
    assert Curve.mean(curves) == Curve((10,), (-4.5,), (-4.0,), 2.0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-9, -1), min_size=1, max_size=8), st.floats(-9, -1))
def test_steps_to_a_quality_lie_where_the_curve_crosses_it(values, wanted):
    steps = tuple(range(10, 10 * len(values) + 1, 10))
    found = Curve(steps, tuple(values), tuple(values)).steps_to(wanted)
    reached = [step for step, value in zip(steps, values, strict=True) if value >= wanted]
    if not reached:
        assert found is None
    else:
        assert reached[0] - 10 <= found <= reached[0]
        assert found > 0
