import json
import types

import pytest

from switch_tf.evaluation.periodic import PeriodicEvaluation
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.teacher_forced import EvaluationInterrupt
from switch_tf.metrics.writer import MetricsWriter, read_metrics
from tests.evaluation.conftest import DATA

LAST = 10


def periodic(folder, decodes=True, **settings):
    """Evaluations of task `a`, whose NLP is minus the step and whose accuracy is the step."""

    def run(step, task_metrics, stop):
        if stop():
            raise EvaluationInterrupt()
        accuracy = {"accuracy": float(step)} if decodes and task_metrics else {}
        return {"a": {"nlp": -float(step)} | accuracy}

    evaluators = types.SimpleNamespace(
        data=DATA,
        teacher_forced=types.SimpleNamespace(datasets={"a": None}),
        task_metrics=types.SimpleNamespace(tasks=["a"]) if decodes else None,
        run=run,
    )
    writer = MetricsWriter(str(folder), restored_step=LAST)
    return PeriodicEvaluation(evaluators, Evaluation(**settings), writer, str(folder), LAST)


def go_on():
    return False


def test_an_evaluation_is_due_each_period_and_at_the_last_step(tmp_path):
    evaluation = periodic(tmp_path, period=4)
    assert [step for step in range(LAST + 1) if evaluation.is_due(step)] == [4, 8, LAST]


def test_the_tasks_own_metrics_are_made_each_decode_period_and_at_the_last_step(tmp_path):
    evaluation = periodic(tmp_path, period=2, decode_period=4)
    for step in range(2, LAST + 1, 2):
        evaluation.run(step, go_on)
    decoded = [r["step"] for r in read_metrics(str(tmp_path)) if "accuracy" in r]
    assert decoded == [4, 8, LAST]


def test_the_best_of_each_metric_is_written_and_told(tmp_path):
    evaluation = periodic(tmp_path, period=5)
    evaluation.run(5, go_on)
    evaluation.run(LAST, go_on)
    found = json.loads((tmp_path / "best.json").read_text())
    assert found == {
        "a": {"accuracy": {"value": 10.0, "step": LAST}, "nlp": {"value": -5.0, "step": 5}}
    }
    assert evaluation.best_lines() == ["best of a: accuracy 10 at step 10, nlp -5 at step 5"]


@pytest.mark.parametrize("decodes", [True, False])
def test_a_step_is_done_when_it_has_all_figures_that_are_due(tmp_path, decodes):
    """Also after a restart, with the tasks' own metrics asked for only now."""
    first = periodic(tmp_path, decodes=False)
    assert not first.is_done(LAST)
    first.run(LAST, go_on)
    assert first.is_done(LAST)
    again = periodic(tmp_path, decodes)
    assert again.is_done(LAST) is not decodes
    again.run(LAST, go_on)
    assert again.is_done(LAST)


def test_an_evaluation_that_is_stopped_logs_nothing(tmp_path):
    evaluation = periodic(tmp_path)
    with pytest.raises(EvaluationInterrupt):
        evaluation.run(LAST, lambda: True)
    assert read_metrics(str(tmp_path)) == []
    assert not evaluation.is_done(LAST)
