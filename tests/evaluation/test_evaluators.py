import types

import pytest

from switch_tf.evaluation import evaluators
from switch_tf.evaluation.settings import Evaluation
from switch_tf.mesh import Mesh
from tests.evaluation.conftest import DATA


@pytest.fixture
def asked(monkeypatch):
    """Puts evaluators that evaluate nothing in place; returns the limits that they are given."""
    limits = []

    def teacher_forced(model, mesh, data, *args):
        limits.append(args)
        return types.SimpleNamespace(run=lambda stop: {"a": {"nlp": -1.0}, "b": {"nlp": -2.0}})

    def task_metrics(model, mesh, data, *args):
        limits.append(args)
        found = {"a": {"accuracy": 50.0}, "mixture": {"average": 50.0}}
        return types.SimpleNamespace(run=lambda step, stop, folder: found)

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


def test_figures_of_a_task_are_one_line():
    line = evaluators.figures_line("a", {"nlp": -1.23456, "tokens": 123456.0})
    assert line == "a  nlp -1.235  tokens 1.235e+05"
