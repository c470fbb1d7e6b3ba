"""The quickstart's report: quality by step and second, size, speed, and the load of each expert."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np

from switch_tf.metrics.load_picture import draw_load, stack_loads
from switch_tf.reproduce.display import duration
from switch_tf.reproduce.experiment import Experiment, Results
from switch_tf.reproduce.experiments.quickstart import DENSE, NLP, PRETRAINING
from switch_tf.reproduce.metrics import Curve, tokens_per_second
from switch_tf.reproduce.pictures import Curves, draw_curves
from switch_tf.reproduce.report import Report, facts_of, load_remark
from switch_tf.reproduce.result import Result
from switch_tf.tasks import pydocs

# Task -> metric -> figure.
Scores = Mapping[str, Mapping[str, float]]


def make(experiment: Experiment, results: Results) -> Report:
    """Makes the report from the results of the runs.

    Args:
      experiment: the quickstart in one of its sizes.
      results: the results of its arms, the dense model first.
    """
    pretrain = {arm.model: found for arm, found in results.items() if arm.starts_from is None}
    curves = {m: [Curve.of(run, PRETRAINING) for run in found] for m, found in pretrain.items()}
    scores = {arm.model: _scores(*found) for arm, found in results.items() if arm.starts_from}
    chance = pydocs.chance_levels() if scores else {}
    entropy = pretrain[DENSE][0].facts["unigram_entropy"][PRETRAINING]
    rows = _pretraining_rows(pretrain, curves, entropy) | _finetuning_rows(scores, chance)
    (claim,) = experiment.claims
    verdict = claim.rule(experiment.measure(results))
    *_, largest = pretrain
    return Report(
        rows=[("", *pretrain, "chance"), *((name, *texts) for name, texts in rows.items())],
        verdicts=verdicts(curves, entropy, str(verdict), scores, chance),
        facts=facts_of(experiment, results)
        | {
            "curves": {m: [dataclasses.asdict(c) for c in cs] for m, cs in curves.items()},
            "finetuned": scores,
            "chance": chance,
            "table": rows,
        },
        # The table has the speed of pre-training alone.
        remark=load_remark(itertools.chain(*pretrain.values())),
        figure=draw(curves, largest, *_load(pretrain[largest][0])),
    )


def draw(
    curves: Curves, largest: str, layers: Sequence[str], load_NE: np.ndarray
) -> matplotlib.figure.Figure:
    """Draws NLP by step and by second of training, and the load per expert.

    Args:
      curves: see `Curves`.
      largest: the Switch model whose load is drawn.
      layers: names of its Switch layers.
      load_NE: [layers, experts], each expert's share of the tokens in its last steps.
    """
    figure = matplotlib.figure.Figure(figsize=(14, 4.5), layout="constrained")
    by_step, by_second, load = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    draw_curves(by_step, by_second, curves, DENSE)
    draw_load(load, load_NE, [short_name(layer) for layer in layers])
    load.set_title(f"load per expert ({largest})", fontsize="medium")
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
    curves: Curves, unigram_entropy: float, compared: str, scores: Mapping[str, Scores], chance
) -> list[str]:
    """Sentences that sum up the table: whether models learn, and how they compare.

    Args:
      curves: see `Curves`.
      unigram_entropy: unigram entropy of the validation targets, in nats per token.
      compared: the verdict on the models.
      scores: model -> its scores after fine-tuning.
      chance: the scores of answers that ignore the input.
    """
    above = min(c.nlp[-1] for of_seeds in curves.values() for c in of_seeds) + unigram_entropy
    lines = [f"the worst pre-training is {above:+.2f} nats ahead of the unigram entropy", compared]
    if not scores:
        return lines
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
    pretrain: Mapping[str, Sequence[Result]], curves: Curves, unigram_entropy: float
) -> dict[str, list[str]]:
    def each(text, chance=""):
        return [*map(text, pretrain), chance]

    mean = {model: Curve.mean(of_seeds) for model, of_seeds in curves.items()}
    facts = {model: of_seeds[0].facts for model, of_seeds in pretrain.items()}
    target = mean[DENSE].nlp[-1]
    steps = {model: curve.steps_to(target) for model, curve in mean.items()}
    return {
        "parameters": each(lambda m: f"{facts[m]['parameters']:,}"),
        "FLOPs per token, forward": each(lambda m: f"{facts[m]['flops_per_token']:,.0f}"),
        "pre-training steps": each(lambda m: f"{mean[m].steps[-1]:,}"),
        "positions seen (millions)": each(
            lambda m: f"{mean[m].steps[-1] * facts[m]['tokens_per_step'] / 1e6:.1f}"
        ),
        "dtype": each(lambda m: facts[m]["dtype"]),
        "tokens/s, median step": each(
            lambda m: f"{statistics.mean(map(tokens_per_second, pretrain[m])):,.0f}"
        ),
        NLP.name: each(lambda m: f"{mean[m].nlp[-1]:.3f}", f"{-unigram_entropy:.3f}"),
        f"{NLP.name}, dropless": each(lambda m: f"{mean[m].nlp_dropless[-1]:.3f}"),
        "range of NLP over seeds": each(lambda m: _range(curves[m])),
        f"lead over {DENSE}": each(
            lambda m: "" if m == DENSE else f"{mean[m].nlp[-1] - target:+.3f}"
        ),
        f"steps to the NLP of {DENSE}": each(lambda m: _reached(steps[m], "{:,.0f}".format)),
        f"time to the NLP of {DENSE}": each(
            lambda m: _reached(steps[m], lambda n: duration(n * mean[m].seconds_per_step))
        ),
    }


def _finetuning_rows(scores: Mapping[str, Scores], chance: Scores) -> dict[str, list[str]]:
    return {
        f"{task}, {metric}": [f"{each[task][metric]:.1f}" for each in (*scores.values(), chance)]
        for task, metrics in chance.items()
        for metric in metrics
    }


def _reached(steps: float | None, text) -> str:
    return "not reached" if steps is None else text(steps)


def _range(curves: Sequence[Curve]) -> str:
    values = [curve.nlp[-1] for curve in curves]
    if len(values) == 1:
        return "one seed"
    return f"{min(values):.3f} to {max(values):.3f} ({len(values)})"


def _scores(run: Result) -> dict[str, dict[str, float]]:
    """Task -> metric -> its value in the last evaluation."""
    return {
        record["task"]: {k: v for k, v in record.items() if isinstance(v, float)}
        for record in run.evaluations
        if record["step"] == run.step
    }


def _load(run: Result) -> tuple[list[str], np.ndarray]:
    """The Switch layers, and their experts' load over the last steps, [layers, experts]."""
    return list(run.load), stack_loads(list(run.load.values()))
