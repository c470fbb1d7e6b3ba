from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.reproduce import metrics
from switch_tf.reproduce.metrics import Curve
from switch_tf.reproduce.training_run import TrainingRun
from tests.reproduce import logs


def test_a_figure_is_that_of_the_tasks_last_evaluation(tmp_path):
    run = TrainingRun("run", tmp_path, (), {})
    records = [logs.evaluation(n, "a", nlp=-float(n)) for n in (3, 2)]
    logs.write(run, {}, *records, logs.evaluation(4, "b", nlp=0.0))
    assert metrics.evaluated("a", "nlp")(run) == -2.0
    assert metrics.evaluated("a", "accuracy")(run) is None
    assert metrics.evaluated("c", "nlp")(run) is None


def test_the_first_steps_are_not_timed(tmp_path):
    run = TrainingRun("run", tmp_path, (), {})
    speeds = [1.0] * 5 + [100.0, 200.0, 400.0]
    logs.write(run, {}, *({"step": 1, "kind": "train", "tokens_per_second": s} for s in speeds))
    assert metrics.tokens_per_second(run) == 200.0


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
