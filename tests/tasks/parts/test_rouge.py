import random

import numpy as np
import pytest
import seqio
from rouge_score import rouge_scorer
from t5.evaluation import metrics

from switch_tf.data import registry
from switch_tf.tasks.parts.rouge import rouge

WORDS = "cats dogs birds sat ran ate slept on near mats trees roads and then".split()
_CHOICE = random.Random(0)


def sentences():
    return " . ".join(" ".join(_CHOICE.choices(WORDS, k=6)) for _ in range(3))


SUMMARIES, ANSWERS = ([sentences() for _ in range(60)] for _ in range(2))
TASKS = ("cnn_dailymail", "xsum", "pydocs_summary")


@pytest.fixture(autouse=True)
def _all_tasks():
    registry.load_project_modules()


@pytest.mark.parametrize("task", TASKS)
def test_the_same_predictions_have_the_same_score(task):
    """google-research/text-to-text-transfer-transformer#112: T5's is drawn anew in each call."""
    (metric,) = seqio.TaskRegistry.get(task).metric_fns
    scores = [metric(SUMMARIES, ANSWERS) for _ in range(3)]
    assert scores[0] == scores[1] == scores[2]
    assert all(0 < score < 100 for score in scores[0].values())


def test_no_random_number_is_taken():
    state = str(np.random.get_state())
    rouge(SUMMARIES, ANSWERS)
    assert str(np.random.get_state()) == state


def test_it_is_what_t5s_comes_near_to():
    theirs = metrics.rouge(SUMMARIES, ANSWERS)
    ours = rouge(SUMMARIES, ANSWERS)
    assert list(ours) == list(theirs)
    assert ours == pytest.approx(theirs, abs=1)


def test_it_is_the_mean_over_the_examples():
    singles = [rouge([t], [a]) for t, a in zip(SUMMARIES, ANSWERS, strict=True)]
    mean = {key: sum(single[key] for single in singles) / len(singles) for key in singles[0]}
    assert rouge(SUMMARIES, ANSWERS) == pytest.approx(mean)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("break_", [" . ", " .\n", "\n"])
def test_the_order_of_sentences_does_not_count_in_rouge_lsum(task, break_):
    """huggingface/transformers#4860: as one sentence, they score like ROUGE-L, far too low."""
    (metric,) = seqio.TaskRegistry.get(task).metric_fns
    parts = ["ann got wet", "it rained in rome", "bob ran home"]
    target, answer = (break_.join(order) for order in (parts, parts[::-1]))
    assert metric([target], [answer])["rougeLsum"] == pytest.approx(100)
    as_one = rouge_scorer.RougeScorer(["rougeL"]).score(target, answer)["rougeL"].fmeasure
    assert as_one == pytest.approx(0.4)


def test_no_task_has_a_metric_that_draws_random_samples():
    for name in seqio.TaskRegistry.names():
        assert metrics.rouge not in seqio.TaskRegistry.get(name).metric_fns


def test_a_prediction_for_each_target_is_wanted():
    with pytest.raises(ValueError):
        rouge(["a", "b"], ["a"])


def test_an_answer_without_line_breaks_is_held_against_each_line_of_the_target():
    """As a vocabulary decodes it that has none, beside the highlights of CNN/DailyMail."""
    target, answer = "ann got wet.\nit rained in rome.", "it rained in rome. ann got wet."
    assert rouge([target], [answer])["rougeLsum"] == pytest.approx(100)
