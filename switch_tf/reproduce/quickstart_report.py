"""The quickstart's report: quality by step and second, size, speed, and the load of each expert."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np

from switch_tf.metrics.load_picture import draw_load, stack_loads
from switch_tf.reproduce.display import duration
from switch_tf.reproduce.experiment import Experiment, Runs
from switch_tf.reproduce.metrics import Curve, tokens_per_second
from switch_tf.reproduce.quickstart import DENSE, NLP, PRETRAINING
from switch_tf.reproduce.report import Report, facts_of, load_remark
from switch_tf.reproduce.training_run import TrainingRun
from switch_tf.tasks import pydocs

_LOAD_STEPS = 50
_COLOURS = ("tab:gray", "tab:blue", "tab:green", "tab:purple")
# The picture leaves out the first steps, in which all models learn the same.
_SHOWN_FROM = 0.15
# Task -> metric -> figure.
Scores = Mapping[str, Mapping[str, float]]
# Model -> one curve per seed; the dense model first.
Curves = Mapping[str, Sequence[Curve]]


def make(experiment: Experiment, runs: Runs) -> Report:
    """Makes the report from the logs of the runs.

    Args:
      experiment: the quickstart in one of its sizes.
      runs: the runs of its arms, the dense model first.
    """
    pretrain = {arm.model: found for arm, found in runs.items() if arm.starts_from is None}
    curves = {m: [Curve.of(run, PRETRAINING) for run in found] for m, found in pretrain.items()}
    scores = {arm.model: _scores(*found) for arm, found in runs.items() if arm.starts_from}
    chance = pydocs.chance_levels() if scores else {}
    entropy = pretrain[DENSE][0].facts()["unigram_entropy"][PRETRAINING]
    rows = _pretraining_rows(pretrain, curves, entropy) | _finetuning_rows(scores, chance)
    verdict = experiment.verdict(experiment.measure(runs))
    *_, largest = pretrain
    return Report(
        rows=[("", *pretrain, "chance"), *((name, *texts) for name, texts in rows.items())],
        verdicts=verdicts(curves, entropy, str(verdict), scores, chance),
        facts=facts_of(experiment, runs)
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
    _draw_curves(by_step, curves, {model: 1.0 for model in curves}, "steps", "{:,.0f} steps")
    seconds = {m: statistics.mean(c.seconds_per_step for c in cs) for m, cs in curves.items()}
    _draw_curves(by_second, curves, seconds, "seconds of training steps", "{:,.0f} s")
    by_step.set_ylabel("validation NLP (minus nats per target token)")
    by_step.legend(loc="lower right")
    draw_load(load, load_NE, [short_name(layer) for layer in layers])
    load.set_title(f"load per expert ({largest})", fontsize="medium")
    return figure


def _draw_curves(
    axes, curves: Curves, scale: Mapping[str, float], label: str, written: str
) -> None:
    """Draws the mean over seeds, the seeds, and when the best has the dense model's last NLP.

    Args:
      axes: where to.
      curves: see `Curves`.
      scale: model -> what a step counts on the x axis.
      label: what the x axis counts.
      written: format of a value on it.
    """
    means = {model: Curve.mean(of_seeds) for model, of_seeds in curves.items()}
    for (model, of_seeds), colour in zip(curves.items(), _COLOURS, strict=False):
        for curve in (means[model], *(of_seeds if len(of_seeds) > 1 else ())):
            shown = [i for i, s in enumerate(curve.steps) if s >= _SHOWN_FROM * curve.steps[-1]]
            is_mean = curve is means[model]
            axes.plot(
                [scale[model] * curve.steps[i] for i in shown],
                [curve.nlp[i] for i in shown],
                color=colour,
                linewidth=1.8 if is_mean else 0.8,
                alpha=1.0 if is_mean else 0.4,
                label=_legend(model, len(of_seeds)) if is_mean else None,
            )
    target = means[DENSE].nlp[-1]
    reached = {m: c.steps_to(target) for m, c in means.items() if m != DENSE}
    reached = {m: scale[m] * steps for m, steps in reached.items() if steps is not None}
    axes.axhline(target, color=_COLOURS[0], linestyle=":")
    if reached:
        first = min(reached, key=reached.get)
        end = scale[DENSE] * means[DENSE].steps[-1]
        axes.annotate(
            f"{first}: after {written.format(reached[first])}\n{DENSE}: {written.format(end)}",
            (reached[first], target),
            xytext=(0.03, 0.86),
            textcoords="axes fraction",
            va="top",
            arrowprops={"arrowstyle": "->"},
        )
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def _legend(model: str, seeds: int) -> str:
    return f"{model}, mean of {seeds} seeds" if seeds > 1 else model


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
    lines = [f"the worst run is {above:+.2f} nats relative to the unigram entropy", compared]
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
    pretrain: Mapping[str, Sequence[TrainingRun]], curves: Curves, unigram_entropy: float
) -> dict[str, list[str]]:
    def each(text, chance=""):
        return [*map(text, pretrain), chance]

    mean = {model: Curve.mean(of_seeds) for model, of_seeds in curves.items()}
    facts = {model: of_seeds[0].facts() for model, of_seeds in pretrain.items()}
    target = mean[DENSE].nlp[-1]
    steps = {model: curve.steps_to(target) for model, curve in mean.items()}
    return {
        "parameters": each(lambda m: f"{facts[m]['parameters']:,}"),
        "FLOPs per token, forward": each(lambda m: f"{facts[m]['flops_per_token']:,.0f}"),
        "pre-training steps": each(lambda m: f"{mean[m].steps[-1]:,}"),
        "positions seen (millions)": each(
            lambda m: f"{mean[m].steps[-1] * facts[m]['tokens_per_step'] / 1e6:.1f}"
        ),
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
    records = [record for record in run.records("train") if "routing" in record]
    routing = [record["routing"] for record in records[-_LOAD_STEPS:]]
    layers = list(routing[0])
    loads = [stack_loads([record[name]["load_E"] for name in layers]) for record in routing]
    return layers, np.mean(loads, axis=0)
