import json

import numpy as np
import pytest

from switch_tf.reproduce import quickstart_report
from switch_tf.reproduce.experiments.quickstart import SHORT
from switch_tf.reproduce.metrics import Curve
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
    model: [Curve((10, 20), nlp, nlp, 2.0) for nlp in seeds]
    for model, (_, seeds) in PRETRAINED.items()
}


def write_run(run, parameters, evaluations):
    """A run as it would log: twenty steps, and evaluations."""
    facts = {
        "parameters": parameters,
        "flops_per_token": 1000.0,
        "dtype": "bfloat16",
        "tokens_per_step": 500_000,
        "unigram_entropy": {"pydocs_span_corruption": 6.0},
    }
    steps = [
        {"step": n, "kind": "train", "tokens_per_second": 100.0 * n}
        | {"seconds": 2.0, "routing": ROUTING}
        for n in range(1, 21)
    ]
    logs.write(run, facts, *steps, *evaluations)


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A report on runs whose figures are known."""
    monkeypatch.setattr(pydocs, "chance_levels", lambda: CHANCE)
    runs = SHORT.runs(tmp_path, tmp_path)
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
    return quickstart_report.make(SHORT, logs.results(runs))


def test_the_table_has_every_figure_of_both_models_and_chance(found):
    heading, *rows = found.rows
    assert heading == ("", "dense T5", "Switch", "chance")
    assert {name: tuple(texts) for name, *texts in rows} == {
        "parameters": ("1,000", "8,000", ""),
        "FLOPs per token, forward": ("1,000", "1,000", ""),
        "pre-training steps": ("20", "20", ""),
        "positions seen (millions)": ("10.0", "10.0", ""),
        "dtype": ("bfloat16", "bfloat16", ""),
        "tokens/s, median step": ("1,300", "1,300", ""),
        "validation NLP": ("-4.050", "-3.500", "-6.000"),
        "validation NLP, dropless": ("-4.040", "-3.490", ""),
        "range of NLP over seeds": ("-4.100 to -4.000 (2)", "one seed", ""),
        "lead over dense T5": ("", "+0.550", ""),
        "steps to the NLP of dense T5": ("20", "15", ""),
        "time to the NLP of dense T5": ("40 s", "29 s", ""),
        "pydocs_copa, accuracy": ("75.0", "75.0", "50.0"),
        "pydocs_summary, rouge1": ("20.2", "20.2", "10.0"),
    }
    assert len({len(line) for line in found.table().splitlines()}) == 1


def test_a_load_of_others_is_told_under_the_table_of_speeds(found, tmp_path):
    assert "Other processes" not in found.table()
    (dense, other_seed), (switch,), (tuned,), _ = SHORT.runs(tmp_path, tmp_path).values()
    logs.sat(dense, 0.5, 0.02, 0.25)
    logs.sat(other_seed, 0.1)
    logs.sat(switch, 0.8)
    # Its speed is not in the table.
    logs.sat(tuned, 1.0)
    report = quickstart_report.make(SHORT, logs.results(SHORT.runs(tmp_path, tmp_path)))
    *_, empty, remark = report.table().splitlines()
    assert (empty, remark) == (
        "",
        "Other processes used a part of the machine, so tokens/s are too low and times too long: "
        "25% in pre-training dense T5, seed 0; 40% in pre-training Switch, seed 0.",
    )
    report.write(tmp_path)
    assert (tmp_path / "report.md").read_text().startswith(report.table() + "\n\n")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["runs"]["fine-tuning dense T5"]["sittings"][0]["others"] == 1.0


def test_the_verdict_weighs_the_lead_against_what_seeds_do(found):
    learned, compared, above = found.verdicts
    assert learned == "the worst pre-training is +1.90 nats ahead of the unigram entropy"
    assert compared == (
        "supports the claim: Switch is 0.550 nats ahead of dense T5, 5.5 times the difference of "
        "0.100 between the seeds of dense T5; at least 3 times is required; Switch has one "
        "seed, whose own spread is not known"
    )
    assert above == "every fine-tuned figure is above chance"


def test_without_fine_tuning_there_is_nothing_said_of_it():
    assert quickstart_report.verdicts(CURVES, 6.0, "compared", {}, {})[1:] == ["compared"]


def test_a_figure_at_chance_is_named():
    scores, chance = dict.fromkeys(CURVES, SCORES), {"pydocs_copa": {"accuracy": 75.0}}
    assert quickstart_report.verdicts(CURVES, 6.0, "", scores, chance)[-1] == (
        "not above chance: pydocs_copa, accuracy of dense T5; pydocs_copa, accuracy of Switch"
    )


def test_it_is_written_as_table_picture_and_data(found, tmp_path):
    assert found.write(tmp_path) == ["report.md", "report.png", "report.json"]
    text = "\n\n".join((found.table(), *found.verdicts))
    assert (tmp_path / "report.md").read_text() == text + "\n"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["curves"]["Switch"][0]["nlp"] == [-4.5, -3.5]
    assert data["paper"]["Switch"] == {"validation NLP": -1.553}
    assert data["claims"][0]["holds"] is True


def test_the_picture_draws_mean_and_seeds_by_step_and_second_and_where_switch_has_the_dense_nlp(
    found,
):
    by_step, by_second, load, _ = found.figure.axes
    for axes, scale, reached in (
        (by_step, 1, "Switch: after 15 steps\ndense T5: 20"),
        (by_second, 2, "29 s\ndense T5: 40"),
    ):
        *curves, target = axes.lines
        assert [list(line.get_ydata()) for line in curves] == [
            [-5.0, pytest.approx(-4.05)],
            [-5.0, -4.0],
            [-5.0, -4.1],
            [-4.5, -3.5],
        ]
        assert list(curves[0].get_xdata()) == [10 * scale, 20 * scale]
        assert list(target.get_ydata()) == [-4.05, -4.05]
        (text,) = (text.get_text() for text in axes.texts)
        assert reached in text
    labels = [text.get_text() for text in by_step.get_legend().get_texts()]
    assert labels == ["dense T5, mean of 2 seeds", "Switch, one seed"]
    assert [text.get_text() for text in load.get_yticklabels()] == ["encoder 0", "decoder 0"]


def test_a_model_that_never_gets_there_is_not_said_to():
    curves = CURVES | {"Switch": [Curve((10, 20), (-6.0, -5.0), (-6.0, -5.0), 2.0)]}
    figure = quickstart_report.draw(curves, "Switch", LAYERS, np.full([2, 2], 0.5))
    assert not figure.axes[0].texts
