import pytest

from switch_tf.reproduce.metrics import Metric
from switch_tf.reproduce.verdict import Verdict, ahead, ahead_by, every

NLP = Metric("NLP", lambda run: None, unit="nats", digits=1)
RULE = ahead("Switch", "dense", NLP)


def judge(sparse, dense):
    return RULE({"Switch": {"NLP": sparse}, "dense": {"NLP": dense}})


@pytest.mark.parametrize(
    "sparse, holds, beats",
    [([-3.0, -3.25], True, "more"), ([-5.0, -5.25], False, "more"), ([-3.5, -5.0], None, "less")],
)
def test_a_lead_is_weighed_against_what_seeds_do(sparse, holds, beats):
    found = judge(sparse, [-4.0, -4.5])
    assert found.holds is holds
    assert f": {beats} than the spread between seeds (" in found.reason


def test_one_seed_of_a_model_decides_nothing():
    assert judge([-3.0], [-4.0, -4.5]) == Verdict(
        None,
        "the mean over seeds of Switch is 1.2 nats ahead of dense: seeds seen here differ by "
        "0.500, but there is only one seed of Switch",
    )


def test_a_model_without_the_figure_decides_nothing():
    assert RULE({"Switch": {}, "dense": {}}).reason == "no NLP of dense and of Switch"


@pytest.mark.parametrize("sparse, holds", [(-2.9, True), (-3.1, None), (-5.4, None), (-5.5, False)])
def test_a_lead_may_have_to_be_several_times_the_distance_of_the_others_seeds(sparse, holds):
    rule = ahead_by("Switch", "dense", NLP, times=3)
    found = rule({"Switch": {"NLP": [sparse]}, "dense": {"NLP": [-4.0, -4.4]}})
    assert found.holds is holds
    assert found.reason.endswith(
        "the difference of 0.4 between the seeds of dense; at least 3 times is required"
    )
    assert rule({"Switch": {"NLP": [-3.0]}, "dense": {"NLP": [-4.0]}}).holds is None


@pytest.mark.parametrize(
    "sparse, told",
    [
        (-3.8, "Switch is 0.4 nats ahead of dense, 1.0 times"),
        (-5.0, "Switch is 0.8 nats behind dense, 2.0 times"),
    ],
)
def test_a_lead_is_told_in_words(sparse, told):
    rule = ahead_by("Switch", "dense", NLP, times=3)
    found = rule({"Switch": {"NLP": [sparse]}, "dense": {"NLP": [-4.0, -4.4]}})
    required = "the difference of 0.4 between the seeds of dense; at least 3 times is required"
    assert found.reason == f"{told} {required}"
    assert judge([-4.5, -4.7], [-4.0, -4.4]).reason.startswith(
        "the mean over seeds of Switch is 0.4 nats behind dense: "
    )


def test_seeds_that_agree_decide_any_lead():
    rule = ahead_by("Switch", "dense", NLP, times=3)
    assert rule({"Switch": {"NLP": [-3.0]}, "dense": {"NLP": [-4.0, -4.0]}}).holds is True


@pytest.mark.parametrize(
    "holds, expected",
    [((True, True), True), ((True, None), None), ((None, False), False), ((True, False), False)],
)
def test_of_several_rules_all_must_hold(holds, expected):
    rules = [lambda measured, h=h: Verdict(h, f"because {h}") for h in holds]
    assert every(rules)({}) == Verdict(expected, f"because {holds[0]}; because {holds[1]}")


def test_a_verdict_is_told_in_words():
    told = [str(Verdict(holds, "why")) for holds in (True, False, None)]
    assert told == ["the claim holds: why", "the claim is refuted: why", "undecided: why"]
