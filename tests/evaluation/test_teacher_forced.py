import dataclasses

import pytest

from switch_tf.data.feed import Feed
from switch_tf.evaluation.teacher_forced import EvaluationInterrupt, TeacherForcedEvaluator
from tests.evaluation.conftest import DATA, TASKS


@pytest.fixture(scope="module")
def evaluator(made):
    return TeacherForcedEvaluator(made.model, made.mesh, DATA)


@pytest.fixture(scope="module")
def found(evaluator):
    return evaluator.run()


def test_each_task_of_a_mixture_is_evaluated_by_itself(found):
    assert list(found) == TASKS
    assert found["toy_copy"] == found["toy_copy_too"]


def test_each_target_token_counts_once_whatever_the_batches(found, made):
    """Of eleven examples, the last batch is filled up with padding."""
    data = dataclasses.replace(DATA, batch_size=16)
    at_once = TeacherForcedEvaluator(made.model, made.mesh, data).run()["toy_copy"]
    for name in ("nlp_dropless", "token_accuracy", "tokens"):
        assert found["toy_copy"][name] == pytest.approx(at_once[name], rel=1e-5)


def test_a_limit_of_batches_holds_for_each_task_and_nlp_is_that_of_a_batch(found, made):
    short = TeacherForcedEvaluator(made.model, made.mesh, DATA, num_batches=1, dropless=False)
    of_first = short.run()["toy_copy"]
    assert "nlp_dropless" in found["toy_copy"] and "nlp_dropless" not in of_first
    assert 0 < of_first["tokens"] < found["toy_copy"]["tokens"]
    batch = Feed(short.datasets["toy_copy"], made.mesh).next()
    assert short.nlp(batch) == of_first["nlp"]


def test_a_stop_is_looked_for_before_each_batch(evaluator):
    asked = []
    with pytest.raises(EvaluationInterrupt):
        evaluator.run(lambda: asked.append(1) or len(asked) == 3)
    assert len(asked) == 3
