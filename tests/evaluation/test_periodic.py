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

    def run(step, task_metrics, stop, predictions):
        assert predictions == str(folder / f"predictions/validation_{step}")
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


def test_the_best_lines_say_that_evaluations_differ_in_size(tmp_path):
    evaluation = periodic(tmp_path)
    evaluation._writer.evaluation(2, "a", {"nlp": -1.0, "tokens": 90.0})
    assert "different sizes" not in "".join(evaluation.best_lines())
    evaluation._writer.evaluation(4, "a", {"nlp": -2.0, "tokens": 10.0})
    assert "different sizes: of a, 90 target tokens" in "".join(evaluation.best_lines())


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


def test_the_best_of_each_metric_is_written_and_told_with_the_checkpoint_that_is_kept(tmp_path):
    evaluation = periodic(tmp_path, period=5)
    evaluation.run(5, go_on)
    assert list(evaluation.kept) == [5]
    (tmp_path / "checkpoint_5").mkdir()
    evaluation.run(LAST, go_on)
    # One of the newest, which later ones will replace, but not once the run has ended.
    (tmp_path / f"checkpoint_{LAST}").mkdir()
    evaluation.write_best()
    best_nlp = {"value": -5.0, "step": 5, "checkpoint": "checkpoint_5"}
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "a": {"accuracy": {"value": 10.0, "step": LAST}, "nlp": best_nlp},
        "toy_mixture": {"mean_nlp": best_nlp},
    }
    assert evaluation.best_lines() == [
        "best of a: accuracy 10 at step 10, nlp -5 at step 5",
        "best of toy_mixture: mean_nlp -5 at step 5",
        f"kept: {tmp_path}/checkpoint_5, best by mean_nlp of toy_mixture",
    ]


def test_a_checkpoint_that_is_gone_is_not_said_to_be_kept(tmp_path):
    evaluation = periodic(tmp_path, period=5)
    evaluation.run(5, go_on)
    evaluation.run(LAST, go_on)
    assert evaluation.kept == periodic(tmp_path, period=5).kept == {}
    evaluation.write_best()
    assert "checkpoint" not in (tmp_path / "best.json").read_text()


def test_at_the_end_of_a_run_each_checkpoint_that_is_there_is_named(tmp_path):
    evaluation = periodic(tmp_path, period=5)
    evaluation.run(5, go_on)
    evaluation.run(LAST, go_on)
    (tmp_path / f"checkpoint_{LAST}").mkdir()
    evaluation.write_best(ended=True)
    found = json.loads((tmp_path / "best.json").read_text())["a"]
    assert found["accuracy"] == {"value": 10.0, "step": LAST, "checkpoint": f"checkpoint_{LAST}"}
    assert "checkpoint" not in found["nlp"]


@pytest.mark.parametrize("decode_period, last", [(0, 6), (2, LAST)])
def test_a_run_stops_after_evaluations_without_a_better_score(tmp_path, decode_period, last):
    """By NLP, which falls; or by the accuracy, which rises, where it is made on the way."""
    settings = {"decode": True, "decode_period": decode_period, "early_stopping": 2, "period": 2}
    evaluation, steps = periodic(tmp_path, **settings), []
    while not evaluation.stops_early and len(steps) < LAST / 2:
        steps.append(2 * len(steps) + 2)
        evaluation.run(steps[-1], go_on)
    assert steps[-1] == last
    assert evaluation.is_done(last)
    assert "accuracy" in read_metrics(str(tmp_path))[-1]
    # A process that resumes knows it, and asked for more patience goes on.
    assert periodic(tmp_path, **settings).stops_early is evaluation.stops_early is (last == 6)
    assert not periodic(tmp_path, **settings | {"early_stopping": 3}).stops_early
    if last == 6:
        assert evaluation.early_line() == (
            "stops early: 2 evaluations without a better mean_nlp of toy_mixture than -2 at step "
            "2; raise Evaluation.early_stopping to continue"
        )


def test_splits_do_not_mix(tmp_path):
    periodic(tmp_path).run(LAST, go_on)
    other = periodic(tmp_path, split="test")
    assert not other.is_done(LAST)
    assert other.best_lines() == []


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
    evaluation.write_best()
    assert not (tmp_path / "best.json").exists()
    assert read_metrics(str(tmp_path)) == []
    assert not evaluation.is_done(LAST)
