"""The quickstart's report: quality, size and speed of both models, and the load of each expert."""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np

from switch_tf.metrics.load_picture import draw_load, stack_loads
from switch_tf.reproduce.experiment import Experiment, Runs
from switch_tf.reproduce.metrics import Curve, tokens_per_second
from switch_tf.reproduce.quickstart import DENSE, NLP, PRETRAINING, SWITCH
from switch_tf.reproduce.report import Report, facts_of
from switch_tf.reproduce.training_run import TrainingRun
from switch_tf.tasks import pydocs

_LOAD_STEPS = 50
_COLOURS = ("tab:gray", "tab:blue")
# Task -> metric -> figure.
Scores = Mapping[str, Mapping[str, float]]


def make(experiment: Experiment, runs: Runs) -> Report:
    """Makes the report from the logs of the runs.

    Args:
      experiment: the quickstart in one of its sizes.
      runs: the runs of its arms, the dense model first.
    """
    pretrain = {arm.model: found for arm, found in runs.items() if arm.starts_from is None}
    curves = {m: [Curve.of(run, PRETRAINING) for run in found] for m, found in pretrain.items()}
    scores = {arm.model: _scores(*found) for arm, found in runs.items() if arm.starts_from}
    chance = pydocs.chance_levels()
    facts = pretrain[DENSE][0].facts()
    entropy = facts["unigram_entropy"][PRETRAINING]
    rows = _pretraining_rows(pretrain, curves, entropy) | _finetuning_rows(scores, chance)
    verdict = experiment.verdict(experiment.measure(runs))
    return Report(
        rows=[("", *pretrain, "chance"), *((name, *texts) for name, texts in rows.items())],
        verdicts=verdicts(curves, entropy, verdict.reason, scores, chance),
        facts=facts_of(experiment, runs)
        | {
            "curves": {m: [dataclasses.asdict(c) for c in cs] for m, cs in curves.items()},
            "finetuned": scores,
            "chance": chance,
            "table": rows,
        },
        figure=draw(curves, entropy, *_load(pretrain[SWITCH][0])),
    )


def draw(
    curves: Mapping[str, Sequence[Curve]],
    unigram_entropy: float,
    layers: Sequence[str],
    load_NE: np.ndarray,
) -> matplotlib.figure.Figure:
    """Draws the NLP curves of both models and the load per expert.

    Args:
      curves: model -> one curve per seed.
      unigram_entropy: unigram entropy of the validation targets, in nats per token.
      layers: names of the Switch layers.
      load_NE: [layers, experts], each expert's share of the tokens in the Switch model's last
        steps.
    """
    figure = matplotlib.figure.Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for (model, of_seeds), colour in zip(curves.items(), _COLOURS, strict=True):
        for number, curve in enumerate(of_seeds):
            style = {"color": colour, "linewidth": 2.0 if number == 0 else 0.8}
            label = model if number == 0 else f"{model}, seed {number}"
            left.plot(curve.steps, curve.nlp, label=label, **style)
    label = "unigram entropy of the targets"
    left.axhline(-unigram_entropy, color="tab:red", linestyle=":", label=label)
    left.set_xlabel("step")
    left.set_ylabel("validation NLP (minus nats per target token)")
    left.legend(loc="lower right")
    left.grid(alpha=0.3)
    draw_load(right, load_NE, [short_name(layer) for layer in layers])
    right.set_title("load per expert, at the end of pre-training")
    return figure


def short_name(layer: str) -> str:
    """Abbreviates a layer's path.

    `model/encoder/layer_0/feed_forward/switch_ffn` becomes `encoder 0`; a Switch layer in attention
    becomes, for example, `encoder 0 query`.
    """
    _, stack, block, kind, *_, last = layer.split("/")
    parts = [stack, block.removeprefix("layer_")]
    return " ".join(parts if kind == "feed_forward" else [*parts, last])


def verdicts(
    curves: Mapping[str, Sequence[Curve]],
    unigram_entropy: float,
    compared: str,
    scores: Mapping[str, Scores],
    chance: Scores,
) -> list[str]:
    """Sentences that sum up the table: whether models learn, and how Switch and dense compare.

    Args:
      curves: see `draw`.
      unigram_entropy: see `draw`.
      compared: the verdict on Switch against dense.
      scores: model -> its scores after fine-tuning.
      chance: the scores of answers that ignore the input.
    """
    last = {model: [c.nlp[-1] for c in of_seeds] for model, of_seeds in curves.items()}
    above = min(min(values) for values in last.values()) + unigram_entropy
    lines = [f"the worst run is {above:+.2f} nats against the unigram entropy", compared]
    if min(last[SWITCH]) > max(last[DENSE]):
        lines.append(f"the worst seed of {SWITCH} is ahead of the best of {DENSE}")
    below = [
        f"{task}, {metric} of {model}"
        for model, found in scores.items()
        for task, metrics in chance.items()
        for metric, level in metrics.items()
        if found[task][metric] <= level
    ]
    if below:
        return [*lines, "not above chance: " + "; ".join(below)]
    return [*lines, "every fine-tuned figure is above chance"]


def _pretraining_rows(
    pretrain: Mapping[str, Sequence[TrainingRun]],
    curves: Mapping[str, Sequence[Curve]],
    unigram_entropy: float,
) -> dict[str, list[str]]:
    def each(text, chance=""):
        return [*map(text, pretrain), chance]

    first = {model: of_seeds[0] for model, of_seeds in curves.items()}
    facts = {model: of_seeds[0].facts() for model, of_seeds in pretrain.items()}
    nlp = first[DENSE].nlp[-1]
    return {
        "parameters": each(lambda m: f"{facts[m]['parameters']:,}"),
        "FLOPs per token, forward": each(lambda m: f"{facts[m]['flops_per_token']:,.0f}"),
        "pre-training steps": each(lambda m: f"{first[m].steps[-1]:,}"),
        "positions seen (millions)": each(
            lambda m: f"{first[m].steps[-1] * facts[m]['tokens_per_step'] / 1e6:.1f}"
        ),
        "tokens/s, median step": each(lambda m: f"{tokens_per_second(pretrain[m][0]):,.0f}"),
        NLP.name: each(lambda m: f"{first[m].nlp[-1]:.3f}", f"{-unigram_entropy:.3f}"),
        f"{NLP.name}, dropless": each(lambda m: f"{first[m].nlp_dropless[-1]:.3f}"),
        "range of NLP over seeds": each(lambda m: _range(curves[m])),
        f"steps to the NLP of {DENSE}": each(lambda m: _steps(first[m].steps_to(nlp))),
    }


def _finetuning_rows(scores: Mapping[str, Scores], chance: Scores) -> dict[str, list[str]]:
    return {
        f"{task}, {metric}": [f"{each[task][metric]:.1f}" for each in (*scores.values(), chance)]
        for task, metrics in chance.items()
        for metric in metrics
    }


def _steps(steps: float | None) -> str:
    return "not reached" if steps is None else f"{steps:,.0f}"


def _range(curves: Sequence[Curve]) -> str:
    values = [curve.nlp[-1] for curve in curves]
    if len(values) == 1:
        return "one seed"
    return f"{min(values):.3f} to {max(values):.3f} ({len(values)})"


def _scores(run: TrainingRun) -> dict[str, dict[str, float]]:
    """Task -> metric -> its value in the last evaluation."""
    records = run.records("evaluation")
    last = max(r["step"] for r in records)
    return {
        r["task"]: {k: v for k, v in r.items() if isinstance(v, float)}
        for r in records
        if r["step"] == last
    }


def _load(run: TrainingRun) -> tuple[list[str], np.ndarray]:
    """The Switch layers, and their experts' load over the last steps, [layers, experts]."""
    routing = [record["routing"] for record in run.records("train")[-_LOAD_STEPS:]]
    layers = list(routing[0])
    loads = [stack_loads([record[name]["load_E"] for name in layers]) for record in routing]
    return layers, np.mean(loads, axis=0)
