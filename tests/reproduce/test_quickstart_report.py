import json

import pytest

from switch_tf.reproduce import quickstart_report
from switch_tf.reproduce.metrics import Curve
from switch_tf.reproduce.quickstart import SHORT
from switch_tf.tasks import pydocs
from tests.reproduce import logs

LAYERS = [f"model/{stack}/layer_0/feed_forward/switch_ffn" for stack in ("encoder", "decoder")]
ROUTING = {layer: {"load_E": [0.25, 0.75]} for layer in LAYERS}
CHANCE = {"pydocs_copa": {"accuracy": 50.0}, "pydocs_summary": {"rouge1": 10.0}}
SCORES = {"pydocs_copa": {"accuracy": 75.0}, "pydocs_summary": {"rouge1": 20.25}}
# Model -> parameters, and NLP of two evaluations by seed.
PRETRAINED = {
    "dense T5": (1000, [(-5.0, -4.0), (-5.0, -4.1)]),
    "Switch": (8000, [(-4.5, -3.5)]),
}
CURVES = {
    model: [Curve((10, 20), nlp, nlp) for nlp in seeds] for model, (_, seeds) in PRETRAINED.items()
}


def write_run(run, parameters, evaluations):
    """A run as it would log: twenty steps, and evaluations."""
    facts = {
        "parameters": parameters,
        "flops_per_token": 1000.0,
        "tokens_per_step": 500_000,
        "unigram_entropy": {"pydocs_span_corruption": 6.0},
    }
    steps = [
        {"step": n, "kind": "train", "tokens_per_second": 100.0 * n, "routing": ROUTING}
        for n in range(1, 21)
    ]
    logs.write(run, facts, *steps, *evaluations)


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A report on runs whose figures are known."""
    monkeypatch.setattr(pydocs, "chance_levels", lambda: CHANCE)
    runs = SHORT.runs(tmp_path, {})
    for arm, of_seeds in runs.items():
        parameters, seeds = PRETRAINED[arm.model]
        if arm.starts_from:
            scores = [logs.evaluation(20, task, **SCORES[task]) for task in SCORES]
            write_run(of_seeds[0], parameters, scores)
            continue
        for run, values in zip(of_seeds, seeds, strict=True):
            pairs = zip((10, 20), values, strict=True)
            evaluations = [
                logs.evaluation(n, "pydocs_span_corruption", nlp=v, nlp_dropless=v + 0.01)
                for n, v in pairs
            ]
            write_run(run, parameters, evaluations)
    return quickstart_report.make(SHORT, runs)


def test_the_table_has_every_figure_of_both_models_and_chance(found):
    heading, *rows = found.rows
    assert heading == ("", "dense T5", "Switch", "chance")
    assert {name: tuple(texts) for name, *texts in rows} == {
        "parameters": ("1,000", "8,000", ""),
        "FLOPs per token, forward": ("1,000", "1,000", ""),
        "pre-training steps": ("20", "20", ""),
        "positions seen (millions)": ("10.0", "10.0", ""),
        "tokens/s, median step": ("1,300", "1,300", ""),
        "validation NLP": ("-4.000", "-3.500", "-6.000"),
        "validation NLP, dropless": ("-3.990", "-3.490", ""),
        "range of NLP over seeds": ("-4.100 to -4.000 (2)", "one seed", ""),
        "steps to the NLP of dense T5": ("20", "15", ""),
        "pydocs_copa, accuracy": ("75.0", "75.0", "50.0"),
        "pydocs_summary, rouge1": ("20.2", "20.2", "10.0"),
    }
    assert len({len(line) for line in found.table().splitlines()}) == 1


def test_the_verdict_weighs_the_gain_against_what_seeds_do(found):
    learned, compared, apart, above = found.verdicts
    assert learned == "the worst run is +1.90 nats against the unigram entropy"
    assert compared == (
        "Switch, the mean of its seeds, is +0.550 nats against dense T5: seeds seen here differ by "
        "0.100, but of Switch there is one alone"
    )
    assert apart == "the worst seed of Switch is ahead of the best of dense T5"
    assert above == "every fine-tuned figure is above chance"


def test_seeds_that_overlap_are_not_called_apart():
    curves = CURVES | {"Switch": [Curve((20,), (-4.05,), (-4.05,))]}
    lines = quickstart_report.verdicts(curves, 6.0, "", {}, CHANCE)
    assert not any("ahead" in line for line in lines)


def test_a_figure_at_chance_is_named():
    scores, chance = dict.fromkeys(CURVES, SCORES), {"pydocs_copa": {"accuracy": 75.0}}
    assert quickstart_report.verdicts(CURVES, 6.0, "", scores, chance)[-1] == (
        "not above chance: pydocs_copa, accuracy of dense T5; pydocs_copa, accuracy of Switch"
    )


def test_it_is_written_as_table_picture_and_data(found, tmp_path):
    assert found.write(tmp_path) == ["report.md", "report.png", "report.json"]
    assert (tmp_path / "report.md").read_text() == found.table() + "\n"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["curves"]["Switch"][0]["nlp"] == [-4.5, -3.5]
    assert data["paper"]["Switch"] == {"validation NLP": -1.553}
    assert data["verdict"]["holds"] is None


def test_the_picture_draws_every_curve_and_the_unigram_entropy(found):
    curves, load, _ = found.figure.axes
    labels = [line.get_label() for line in curves.lines]
    assert labels == ["dense T5", "dense T5, seed 1", "Switch", "unigram entropy of the targets"]
    assert list(curves.lines[-1].get_ydata()) == [-6.0, -6.0]
    assert [text.get_text() for text in load.get_yticklabels()] == ["encoder 0", "decoder 0"]
