import math

import pytest

from switch_tf.evaluation import ranking
from switch_tf.metrics import best
from switch_tf.metrics.best import Peak


def record(step, task, **figures):
    return {"step": step, "kind": "evaluation", "task": task, "split": "validation"} | figures


OWN = [
    record(1, "a", nlp=-1.0, tokens=9.0, accuracy=50.0, f1=10.0),
    record(1, "b", nlp=-3.0, tokens=9.0, accuracy=30.0),
    record(2, "a", nlp=-0.5, tokens=9.0),
    record(2, "b", nlp=-1.5, tokens=9.0),
    record(3, "a", nlp=-2.0, tokens=9.0, accuracy=40.0, f1=90.0),
    record(3, "b", nlp=-0.8, tokens=9.0, accuracy=50.0),
]


def test_a_mixture_is_ranked_by_the_mean_over_its_tasks():
    by_nlp = ranking.score("mix", OWN, by_own=False)
    assert (by_nlp.metric, by_nlp.values) == ("mean_nlp", {1: -2.0, 2: -1.0, 3: -1.4})
    assert (by_nlp.peak, by_nlp.since_peak) == (Peak(-1.0, 2), 1)


def test_by_the_tasks_own_metrics_the_first_of_each_counts_where_it_was_made():
    by_own = ranking.score("mix", OWN, by_own=True)
    assert (by_own.metric, by_own.values) == ("mean_metric", {1: 40.0, 3: 45.0})
    averages = [record(1, "mix", average=60.0), record(3, "mix", average=20.0)]
    by_average = ranking.score("mix", [*OWN, *averages], by_own=True)
    assert (by_average.metric, by_average.values) == ("average", {1: 60.0, 3: 20.0})


@pytest.mark.parametrize("by_own, metric, value", [(False, "nlp", -1.0), (True, "accuracy", 50.0)])
def test_a_task_alone_is_ranked_by_its_own_figure(by_own, metric, value):
    found = ranking.score("a", OWN[:1], by_own)
    assert (found.task, found.metric, found.peak) == ("a", metric, Peak(value, 1))


def test_a_step_that_was_evaluated_twice_counts_once():
    again = [*OWN, record(3, "a", nlp=-2.0), record(3, "b", nlp=-0.8)]
    assert ranking.score("mix", again, False) == ranking.score("mix", OWN, False)


def test_what_is_no_number_is_no_improvement():
    values = {1: math.nan, 2: -1.0, 3: math.nan, 4: -1.0}
    found = ranking.Score("a", "nlp", values)
    assert (found.peak, found.since_peak) == (Peak(-1.0, 2), 2)
    nothing = ranking.Score("a", "nlp", {1: math.nan})
    assert (nothing.peak, nothing.since_peak) == (None, 1)


def test_the_best_as_a_whole_is_kept_and_of_each_task_where_it_is_asked_for():
    score, peaks = ranking.score("mix", OWN, True), best.peaks(OWN)

    def kept(keep):
        return ranking.steps_to_keep(keep, score, peaks, OWN)

    assert kept(None) == {}
    assert kept("score") == {3: ["mean_metric of mix"]}
    assert kept("tasks") == {
        1: ["accuracy of a"],
        2: ["nlp of a"],
        3: ["accuracy of b", "nlp of b", "mean_metric of mix"],
    }
