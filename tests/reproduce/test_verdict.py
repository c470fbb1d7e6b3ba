import pytest

from switch_tf.reproduce.metrics import Metric
from switch_tf.reproduce.verdict import Verdict, ahead

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
    assert f": {beats} than seeds alone do (" in found.reason


def test_one_seed_of_a_model_decides_nothing():
    assert judge([-3.0], [-4.0, -4.5]) == Verdict(
        None,
        "Switch, the mean of its seeds, is +1.2 nats against dense: seeds seen here differ by "
        "0.500, but of Switch there is one alone",
    )


def test_a_model_without_the_figure_decides_nothing():
    assert RULE({"Switch": {}, "dense": {}}).reason == "no NLP of dense and of Switch"


def test_a_verdict_is_told_in_words():
    told = [str(Verdict(holds, "why")) for holds in (True, False, None)]
    assert told == ["the claim holds: why", "the claim is refuted: why", "undecided: why"]
