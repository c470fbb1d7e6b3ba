import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.reproduce import report
from switch_tf.reproduce.arms import Arm
from switch_tf.reproduce.report import Curve
from switch_tf.tasks import pydocs

LAYERS = [f"model/{stack}/layer_0/feed_forward/switch_ffn" for stack in ("encoder", "decoder")]
CHANCE = {"pydocs_copa": {"accuracy": 50.0}, "pydocs_summary": {"rouge1": 10.0}}


def write_run(folder, name, parameters, nlp, routing, **scores):
    """A model's runs as they would log: pre-training of two evaluations, or of given scores."""
    arm = Arm(name, folder / name, (), {})
    arm.model_dir.mkdir()
    facts = {
        "parameters": parameters,
        "flops_per_token": 1000.0,
        "tokens_per_step": 500_000,
        "unigram_entropy": {"pydocs_span_corruption": 6.0},
    }
    (arm.model_dir / "run.json").write_text(json.dumps(facts))
    lines = []
    for step in range(1, 21):
        lines.append(
            {"step": step, "kind": "train", "tokens_per_second": 100.0 * step, "routing": routing}
        )
        if scores and step == 20:
            for task, metrics in scores.items():
                lines.append({"step": step, "kind": "evaluation", "task": task} | metrics)
        elif not scores and step % 10 == 0:
            figures = {"nlp": nlp[step // 10 - 1], "nlp_dropless": nlp[step // 10 - 1] + 0.01}
            task = {"task": "pydocs_span_corruption"}
            lines.append({"step": step, "kind": "evaluation"} | task | figures)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (arm.model_dir / "metrics.jsonl").write_text(text)
    return arm


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A report on runs whose figures are known."""
    monkeypatch.setattr(pydocs, "chance_levels", lambda: CHANCE)
    routing = {layer: {"load_E": [0.25, 0.75]} for layer in LAYERS}
    pretrain = {
        "dense T5": [
            write_run(tmp_path, "d0", 1000, (-5.0, -4.0), {}),
            write_run(tmp_path, "d1", 1000, (-5.0, -4.1), {}),
        ],
        "Switch": [write_run(tmp_path, "s0", 8000, (-4.5, -3.5), routing)],
    }
    scores = {"pydocs_copa": {"accuracy": 75.0}, "pydocs_summary": {"rouge1": 20.25}}
    finetune = {
        "dense T5": write_run(tmp_path, "df", 1000, (), {}, **scores),
        "Switch": write_run(tmp_path, "sf", 8000, (), routing, **scores),
    }
    return report.make(pretrain, finetune)


def test_the_table_has_every_figure_of_both_models_and_chance(found):
    rows = {name: tuple(texts) for name, texts in found.rows.items()}
    assert rows == {
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
    lines = found.table().splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[2:-1]] == ["dense T5", "Switch", "chance"]
    assert len({len(line) for line in lines}) == 1


def test_the_verdict_weighs_the_gain_against_what_seeds_do(found):
    learned, compared, apart, above = report.verdicts(found)
    assert learned == "the worst run is +1.90 nats against the unigram entropy"
    assert compared == (
        "Switch, the mean of its seeds, is +0.550 nats against dense T5: seeds seen here differ by "
        "0.100, but of Switch there is one alone"
    )
    assert apart == "the worst seed of Switch is ahead of the best of dense T5"
    assert above == "every fine-tuned figure is above chance"


@pytest.mark.parametrize("second, beats", [(-3.6, "more"), (-2.0, "less")])
def test_a_gain_is_weighed_against_what_seeds_do_where_both_models_have_several(
    found, second, beats
):
    curves = {model: [*curves] for model, curves in found.curves.items()}
    curves["Switch"].append(Curve((20,), (second,), (second,)))
    (_, compared, *_) = report.verdicts(dataclasses.replace(found, curves=curves))
    assert f": {beats} than seeds alone do (" in compared


def test_seeds_that_overlap_are_not_called_apart(found):
    curves = found.curves | {"Switch": [Curve((20,), (-4.05,), (-4.05,))]}
    lines = report.verdicts(dataclasses.replace(found, curves=curves))
    assert not any("ahead" in line for line in lines)


def test_a_figure_at_chance_is_named(found):
    facts = {**found.facts, "chance": {"pydocs_copa": {"accuracy": 75.0}}}
    assert report.verdicts(dataclasses.replace(found, facts=facts))[-1] == (
        "not above chance: pydocs_copa, accuracy of dense T5; pydocs_copa, accuracy of Switch"
    )


def test_it_is_written_as_table_picture_and_data(found, tmp_path):
    found.write(tmp_path)
    assert (tmp_path / "report.md").read_text() == found.table() + "\n"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["curves"]["Switch"][0]["nlp"] == [-4.5, -3.5]
    assert {"commit", "date", "tensorflow", "processor"} <= set(data["environment"])


def test_the_picture_draws_every_curve_and_the_unigram_entropy(found):
    curves, load, _ = found.draw().axes
    labels = [line.get_label() for line in curves.lines]
    assert labels == ["dense T5", "dense T5, seed 1", "Switch", "unigram entropy of the targets"]
    assert list(curves.lines[-1].get_ydata()) == [-6.0, -6.0]
    assert [text.get_text() for text in load.get_yticklabels()] == ["encoder 0", "decoder 0"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-9, -1), min_size=1, max_size=8), st.floats(-9, -1))
def test_steps_to_a_quality_lie_where_the_curve_crosses_it(values, wanted):
    steps = tuple(range(10, 10 * len(values) + 1, 10))
    found = Curve(steps, tuple(values), tuple(values)).steps_to(wanted)
    reached = [step for step, value in zip(steps, values, strict=True) if value >= wanted]
    if not reached:
        assert found is None
    else:
        assert reached[0] - 10 <= found <= reached[0]
        assert found > 0
