import dataclasses
import math

import pytest

from switch_tf.reproduce.metrics import Curve, Metric
from switch_tf.reproduce.verdict import (
    Verdict,
    ahead,
    ahead_by,
    alike,
    every,
    faster,
    keeps,
    steadier,
)

NLP = Metric("NLP", lambda result: None, unit="nats", digits=1)
MINUTES = Metric("minutes", lambda result: None, unit="min", digits=1, sign=-1)
RULE = ahead("Switch", "dense", NLP)


def measured(metric=NLP, **values):
    return {model: {metric.name: found} for model, found in values.items()}


@pytest.mark.parametrize(
    "sparse, holds",
    [([-3.0, -3.25], True), ([-5.0, -5.25], False), ([-3.5, -5.0], None)],
)
def test_a_lead_is_weighed_against_what_seeds_do(sparse, holds):
    found = RULE(measured(Switch=sparse, dense=[-4.0, -4.5]))
    assert found.holds is holds
    assert ", 95% interval " in found.reason


def test_where_less_is_better_the_smaller_figure_is_ahead():
    rule = ahead("Switch", "dense", MINUTES)
    found = rule(measured(MINUTES, Switch=[2.0, 2.2], dense=[4.0, 4.2]))
    assert found == Verdict(
        True,
        "the mean over seeds of Switch is 2.0 min ahead of dense, 95% interval 1.8 to 2.2",
    )


def test_a_seed_that_diverged_or_never_arrived_is_behind_all_others():
    found = RULE(measured(Switch=[-3.0, -3.1], dense=[-math.inf, -math.inf]))
    assert found.holds is True and "diverged" in found.reason
    rule = ahead("Switch", "dense", MINUTES)
    found = rule(measured(MINUTES, Switch=[2.0, 2.2], dense=[math.inf, math.inf]))
    assert found.holds is True


def test_one_seed_of_a_model_or_none_decides_nothing():
    told = "NLP needs two seeds at least: there are 1 of Switch"
    assert RULE(measured(Switch=[-3.0], dense=[-4.0, -4.5])) == Verdict(None, told, True)
    found = RULE({"Switch": {}, "dense": {}})
    assert found.reason == "NLP needs two seeds at least: there are 0 of Switch and 0 of dense"
    assert found.word == every([RULE])({"Switch": {}, "dense": {}}).word == "not run yet"


@pytest.mark.parametrize(
    "other, holds", [([-4.01, -4.0], True), ([-5.0, -5.1], False), ([-4.0, -4.2], None)]
)
def test_alike_needs_the_whole_interval_inside_the_margin(other, holds):
    rule = alike("a", "b", NLP, within=0.1)
    assert rule(measured(a=[-4.0, -4.0], b=other)).holds is holds


@pytest.mark.parametrize(
    "model, than, holds",
    [
        ([1.0, 1.01, 1.02, 1.0, 1.01], [1.0, 2.0, 3.0, 1.5, 2.5], True),
        ([1.0, 2.0, 3.0, 1.5, 2.5], [1.0, 1.01, 1.02, 1.0, 1.01], False),
        ([1.0, 2.0, 3.0], [1.0, 2.1, 3.0], None),
        ([1.0, 2.0], [1.0, -math.inf], True),
        ([1.0, -math.inf], [1.0, -math.inf], None),
    ],
)
def test_steadier_compares_how_seeds_spread(model, than, holds):
    assert steadier("a", "b", NLP)(measured(a=model, b=than)).holds is holds


@pytest.mark.parametrize(
    "student, holds", [([-3.5, -3.6], True), ([-4.5, -4.6], False), ([-3.5, -4.5], None)]
)
def test_a_student_keeps_a_share_of_its_teachers_lead(student, holds):
    rule = keeps("student", "teacher", "dense", NLP)
    found = rule(measured(student=student, teacher=[-3.0, -3.0], dense=[-4.0, -4.0]))
    assert found.holds is holds
    assert found.reason.startswith("student keeps ")
    no_lead = rule(measured(student=student, teacher=[-3.0, -5.0], dense=[-4.0, -4.0]))
    assert no_lead.holds is None and no_lead.reason.startswith("no lead to keep: ")


CURVES = Metric("curve", lambda result: None, is_shown=False)


@pytest.mark.parametrize(
    "end, at_least, holds", [(-3.0, 1.0, True), (-3.0, 9.0, False), (-5.0, 1.0, False)]
)
def test_a_speed_up_in_steps_is_weighed_against_seeds(end, at_least, holds):
    def curves(*ends):
        return [Curve((10, 20), (-6.0, last), (-6.0, last), 1.0) for last in ends]

    rule = faster("Switch", "dense", [CURVES], at_least)
    found = rule(measured(CURVES, Switch=curves(end, end - 0.1), dense=curves(-4.0, -4.1)))
    assert found.holds is holds
    assert "mean over 1 tasks" in found.reason
    assert rule(measured(CURVES, Switch=curves(end), dense=curves(-4.0))).holds is None


@pytest.mark.parametrize("sparse, holds", [(-2.9, True), (-3.1, None), (-5.4, None), (-5.5, False)])
def test_a_lead_may_have_to_be_several_times_the_distance_of_the_others_seeds(sparse, holds):
    rule = ahead_by("Switch", "dense", NLP, times=3)
    found = rule(measured(Switch=[sparse], dense=[-4.0, -4.4]))
    assert found.holds is holds
    required = "the difference of 0.4 between the seeds of dense; at least 3 times is required"
    alone = "; Switch has one seed, whose own spread is not known"
    assert found.reason.endswith(required + alone)
    two = rule(measured(Switch=[sparse, sparse], dense=[-4.0, -4.4]))
    assert two == dataclasses.replace(found, reason=found.reason.removesuffix(alone))
    assert rule(measured(Switch=[-3.0], dense=[-4.0])).holds is None


@pytest.mark.parametrize(
    "sparse, told",
    [
        (-3.8, "Switch is 0.4 nats ahead of dense, 1.0 times"),
        (-5.0, "Switch is 0.8 nats behind dense, 2.0 times"),
    ],
)
def test_a_lead_is_told_in_words(sparse, told):
    rule = ahead_by("Switch", "dense", NLP, times=3)
    found = rule(measured(Switch=[sparse, sparse], dense=[-4.0, -4.4]))
    required = "the difference of 0.4 between the seeds of dense; at least 3 times is required"
    assert found.reason == f"{told} {required}"


def test_seeds_that_agree_decide_any_lead():
    rule = ahead_by("Switch", "dense", NLP, times=3)
    assert rule(measured(Switch=[-3.0], dense=[-4.0, -4.0])).holds is True


@pytest.mark.parametrize(
    "holds, expected",
    [((True, True), True), ((True, None), None), ((None, False), False), ((True, False), False)],
)
def test_of_several_rules_all_must_hold(holds, expected):
    rules = [lambda measured, h=h: Verdict(h, f"because {h}") for h in holds]
    assert every(rules)({}) == Verdict(expected, f"because {holds[0]}; because {holds[1]}")


def test_a_verdict_is_told_in_words():
    told = [str(Verdict(holds, "why")) for holds in (True, False, None)]
    assert told == [
        "supports the claim: why",
        "contradicts the claim: why",
        "cannot tell at this scale: why",
    ]
