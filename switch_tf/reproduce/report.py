"""The quickstart's report: one table, one picture, and the same as data."""

import dataclasses
import datetime
import json
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.figure
import numpy as np

from switch_tf.metrics.load_picture import draw_load, stack_loads
from switch_tf.reproduce.arms import Arm

_PRETRAINING = "pydocs_span_corruption"
# Compilation, and what the system does at a run's start.
_UNTIMED_STEPS = 5
_LOAD_STEPS = 50
_COLOURS = ("tab:gray", "tab:blue")


@dataclasses.dataclass(frozen=True)
class Curve:
    """Validation NLP of one pre-training run.

    Attributes:
      steps: of its evaluations, ascending.
      nlp: minus nats per target token at the evaluation capacity.
      nlp_dropless: the same where no token is dropped.
    """

    steps: tuple[int, ...]
    nlp: tuple[float, ...]
    nlp_dropless: tuple[float, ...]

    def steps_to(self, nlp: float) -> float | None:
        """Steps needed for `nlp`, on the line between two evaluations; None if it was not reached.

        >>> Curve((10, 20), (-5.0, -4.0), (-5.0, -4.0)).steps_to(-4.5)
        15.0
        """
        before = None
        for step, value in zip(self.steps, self.nlp, strict=True):
            if value >= nlp:
                if before is None:
                    return float(step)
                share = (nlp - before[1]) / (value - before[1])
                return before[0] + share * (step - before[0])
            before = (step, value)
        return None


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
      rows: name of a figure -> its text for each model, then the chance level.
      columns: names of the models, then "chance".
      curves: model -> a curve for each seed.
      unigram_entropy: of the validation targets, nats a token.
      load_NE: [layers, experts], share of the tokens of the Switch model's last steps.
      layers: their names.
      facts: environment, commit, date, settings and all figures, as data.
    """

    rows: Mapping[str, Sequence[str]]
    columns: Sequence[str]
    curves: Mapping[str, Sequence[Curve]]
    unigram_entropy: float
    load_NE: np.ndarray
    layers: Sequence[str]
    facts: Mapping

    def table(self) -> str:
        """The table, in Markdown."""
        cells = [["", *self.columns], *([name, *texts] for name, texts in self.rows.items())]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
            for row in cells
        ]
        rule = "| " + " | ".join("-" * width for width in widths) + " |"
        return "\n".join([lines[0], rule, *lines[1:]])

    def write(self, folder: Path) -> None:
        """Writes report.md, report.png and report.json."""
        (folder / "report.md").write_text(self.table() + "\n")
        (folder / "report.json").write_text(json.dumps(self.facts, indent=2))
        self.draw().savefig(folder / "report.png", dpi=110, bbox_inches="tight")

    def draw(self) -> matplotlib.figure.Figure:
        """The two NLP curves, and the load per expert."""
        figure = matplotlib.figure.Figure(figsize=(12, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for (model, curves), colour in zip(self.curves.items(), _COLOURS, strict=True):
            for number, curve in enumerate(curves):
                style = {"color": colour, "linewidth": 2.0 if number == 0 else 0.8}
                label = model if number == 0 else f"{model}, seed {number}"
                left.plot(curve.steps, curve.nlp, label=label, **style)
        label = "unigram entropy of the targets"
        left.axhline(-self.unigram_entropy, color="tab:red", linestyle=":", label=label)
        left.set_xlabel("step")
        left.set_ylabel("validation NLP (minus nats per target token)")
        left.legend(loc="lower right")
        left.grid(alpha=0.3)
        draw_load(right, self.load_NE, [short_name(layer) for layer in self.layers])
        right.set_title("load per expert, at the end of pre-training")
        return figure


def short_name(layer: str) -> str:
    """`encoder 0` of `model/encoder/layer_0/feed_forward/switch_ffn`.

    `encoder 0 query` of a Switch layer of attention.
    """
    _, stack, block, kind, *_, last = layer.split("/")
    parts = [stack, block.removeprefix("layer_")]
    return " ".join(parts if kind == "feed_forward" else [*parts, last])


def make(pretrain: Mapping[str, Sequence[Arm]], finetune: Mapping[str, Arm]) -> Report:
    """Reads what the runs logged.

    Args:
      pretrain: model -> its runs, of which the first was fine-tuned; the dense model first.
      finetune: model -> its run.
    """
    from switch_tf.tasks import pydocs

    curves = {model: [_curve(arm) for arm in runs] for model, runs in pretrain.items()}
    facts = {model: runs[0].facts() for model, runs in pretrain.items()}
    scores = {model: _scores(arm) for model, arm in finetune.items()}
    chance = pydocs.chance_levels()
    dense, sparse = pretrain
    rows = _pretraining_rows(pretrain, curves, facts)
    for task, metrics in chance.items():
        for metric, level in metrics.items():
            values = [f"{scores[model][task][metric]:.1f}" for model in pretrain]
            rows[f"{task}, {metric}"] = [*values, f"{level:.1f}"]
    routing = [r["routing"] for r in _train_records(pretrain[sparse][0])[-_LOAD_STEPS:]]
    layers = list(routing[0])
    loads = [stack_loads([record[name]["load_E"] for name in layers]) for record in routing]
    load_NE = np.mean(loads, axis=0)
    return Report(
        rows=rows,
        columns=[*pretrain, "chance"],
        curves=curves,
        unigram_entropy=facts[dense]["unigram_entropy"][_PRETRAINING],
        load_NE=load_NE,
        layers=layers,
        facts={
            "environment": _environment(),
            "runs": facts,
            "curves": {m: [dataclasses.asdict(c) for c in cs] for m, cs in curves.items()},
            "finetuned": scores,
            "chance": chance,
            "table": rows,
        },
    )


def _pretraining_rows(pretrain, curves, facts) -> dict[str, list[str]]:
    def each(text):
        return [text(model) for model in pretrain] + [""]

    dense, sparse = pretrain
    first = {model: runs[0] for model, runs in curves.items()}
    nlp = first[dense].nlp[-1]
    entropy = facts[dense]["unigram_entropy"][_PRETRAINING]
    rows = {
        "parameters": each(lambda m: f"{facts[m]['parameters']:,}"),
        "FLOPs per token, forward": each(lambda m: f"{facts[m]['flops_per_token']:,.0f}"),
        "pre-training steps": each(lambda m: f"{first[m].steps[-1]:,}"),
        "positions seen (millions)": each(
            lambda m: f"{first[m].steps[-1] * facts[m]['tokens_per_step'] / 1e6:.1f}"
        ),
        "tokens/s, median step": each(lambda m: f"{_speed(pretrain[m][0]):,.0f}"),
        "validation NLP": [*each(lambda m: f"{first[m].nlp[-1]:.3f}")[:-1], f"{-entropy:.3f}"],
        "validation NLP, dropless": each(lambda m: f"{first[m].nlp_dropless[-1]:.3f}"),
        "range of NLP over seeds": each(lambda m: _spread(curves[m])),
        f"steps to the NLP of {dense}": each(lambda m: _steps(first[m].steps_to(nlp))),
    }
    return rows


def _steps(steps: float | None) -> str:
    return "not reached" if steps is None else f"{steps:,.0f}"


def _spread(curves: Sequence[Curve]) -> str:
    values = [curve.nlp[-1] for curve in curves]
    if len(values) == 1:
        return "one seed"
    return f"{min(values):.3f} to {max(values):.3f} ({len(values)})"


def _curve(arm: Arm) -> Curve:
    records = [r for r in arm.records() if r["kind"] == "evaluation" and r["task"] == _PRETRAINING]
    return Curve(
        tuple(r["step"] for r in records),
        tuple(r["nlp"] for r in records),
        tuple(r["nlp_dropless"] for r in records),
    )


def _scores(arm: Arm) -> dict[str, dict[str, float]]:
    """Task -> metric -> value of the last evaluation."""
    records = [r for r in arm.records() if r["kind"] == "evaluation"]
    last = max(r["step"] for r in records)
    return {
        r["task"]: {k: v for k, v in r.items() if isinstance(v, float)}
        for r in records
        if r["step"] == last
    }


def _train_records(arm: Arm) -> list[dict]:
    return [r for r in arm.records() if r["kind"] == "train"]


def _speed(arm: Arm) -> float:
    return statistics.median(r["tokens_per_second"] for r in _train_records(arm)[_UNTIMED_STEPS:])


def _environment() -> dict:
    import keras
    import tensorflow as tf

    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:
        # A machine without git.
        commit = ""
    return {
        "commit": commit or "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def verdicts(report: Report) -> list[str]:
    """What the table says, in sentences: of learning, and of Switch against dense."""
    dense, sparse = report.curves
    last = {model: [c.nlp[-1] for c in curves] for model, curves in report.curves.items()}
    gain = statistics.mean(last[sparse]) - statistics.mean(last[dense])
    above = min(min(values) for values in last.values()) + report.unigram_entropy
    lines = [
        f"the worst run is {above:+.2f} nats against the unigram entropy",
        f"{sparse}, the mean of its seeds, is {gain:+.3f} nats against {dense}: "
        + _of_seeds(gain, last),
    ]
    if min(last[sparse]) > max(last[dense]):
        lines.append(f"the worst seed of {sparse} is ahead of the best of {dense}")
    return lines + [_against_chance(report.facts)]


def _of_seeds(gain: float, last: Mapping[str, Sequence[float]]) -> str:
    """How a lead compares with what seeds do; one seed of a model says nothing of its others."""
    spread = max(max(values) - min(values) for values in last.values())
    if min(map(len, last.values())) > 1:
        return f"{'more' if abs(gain) > spread else 'less'} than seeds alone do ({spread:.3f})"
    few = " and of ".join(model for model, values in last.items() if len(values) == 1)
    return f"seeds seen here differ by {spread:.3f}, but of {few} there is one alone"


def _against_chance(facts: Mapping) -> str:
    """Which fine-tuned figures are not above what an answer without looking reaches."""
    below = [
        f"{task}, {metric} of {model}"
        for model, scores in facts["finetuned"].items()
        for task, metrics in facts["chance"].items()
        for metric, level in metrics.items()
        if scores[task][metric] <= level
    ]
    if below:
        return "not above chance: " + "; ".join(below)
    return "every fine-tuned figure is above chance"
