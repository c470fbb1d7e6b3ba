import types

import pytest

from switch_tf import runtime
from switch_tf.data.lost import Lost
from switch_tf.evaluation import evaluators
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.teacher_forced import EvaluationInterrupt
from switch_tf.mesh import Mesh
from tests.evaluation.conftest import DATA


@pytest.fixture
def asked(monkeypatch):
    """Puts evaluators that evaluate nothing in place; returns the limits that they are given."""
    limits = []

    def teacher_forced(model, mesh, data, *args, without):
        assert not without
        limits.append(args)
        return types.SimpleNamespace(run=lambda stop: {"a": {"nlp": -1.0}, "b": {"nlp": -2.0}})

    def task_metrics(model, mesh, data, *args):
        limits.append(args)
        found = {"a": {"accuracy": 50.0}, "mixture": {"average": 50.0}}
        return types.SimpleNamespace(
            run=lambda step, stop, folder: found,
            leave_out=lambda tasks: None,
            check=lambda: None,
        )

    monkeypatch.setattr(evaluators, "TeacherForcedEvaluator", teacher_forced)
    monkeypatch.setattr(evaluators, "TaskEvaluator", task_metrics)
    return limits


def evaluators_of(settings):
    mesh = Mesh.on_paper("batch:2", "batch:batch")
    made = types.SimpleNamespace(model=None, mesh=mesh, data=DATA)
    return evaluators.Evaluators(made, settings)


def test_figures_of_both_kinds_are_joined_by_task(asked):
    both = evaluators_of(Evaluation(batches=5, dropless=False, decode=True, decode_examples=7))
    assert asked == [(5, False), (7,)]
    assert both.run(step=3, task_metrics=True) == {
        "a": {"nlp": -1.0, "accuracy": 50.0},
        "b": {"nlp": -2.0},
        "mixture": {"average": 50.0},
    }
    assert both.run(step=3, task_metrics=False) == {"a": {"nlp": -1.0}, "b": {"nlp": -2.0}}


def test_the_tasks_own_metrics_are_made_only_where_the_settings_ask_for_them(asked):
    alone = evaluators_of(Evaluation())
    assert asked == [(None, True)]
    assert alone.task_metrics is None
    assert alone.run(step=3, task_metrics=True).keys() == {"a", "b"}


def test_what_is_truncated_is_counted_once_and_not_after_a_signal(asked, monkeypatch, capsys):
    found = [("a", Lost(9, 0.5, 0.0)), ("b", Lost(9, 0.25, 0.0))]
    monkeypatch.setattr(evaluators.lost, "count", lambda *_: left)
    alone, left = evaluators_of(Evaluation()), iter(found)
    with pytest.raises(EvaluationInterrupt):
        alone.run(step=3, task_metrics=False, stop=lambda: True)
    assert list(left) == found[1:] and capsys.readouterr().out == ""
    left = iter(found)
    for _ in range(2):
        assert alone.run(step=3, task_metrics=False)["b"]["truncated_inputs"] == 0.25
    assert capsys.readouterr().out.splitlines() == [
        f"split 'validation' of {task}: {share} of inputs and 0.0% of targets are truncated to "
        "TASK_FEATURE_LENGTHS (of 9 examples)"
        for task, share in (("a", "50.0%"), ("b", "25.0%"))
    ]


def test_a_process_that_is_not_the_chief_knows_what_is_truncated_and_prints_nothing(
    asked, monkeypatch, capsys
):
    monkeypatch.setattr(runtime, "is_chief", lambda: False)
    found = [("a", Lost(9, 0.5, 0.0))]
    monkeypatch.setattr(evaluators.lost, "count", lambda *_: found)
    results = evaluators_of(Evaluation()).run(step=3, task_metrics=False)
    assert results["a"]["truncated_inputs"] == 0.5
    assert capsys.readouterr().out == ""
