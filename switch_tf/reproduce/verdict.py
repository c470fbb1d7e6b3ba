"""Whether measurements support a claim, given how seeds differ.

Each rule is part of an experiment's declaration, so it is written down before the runs. A rule
takes all measurements and gives a `Verdict`.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from switch_tf.reproduce import bootstrap
from switch_tf.reproduce.metrics import Curve, Measurements, Metric

# Draws of curves, which take longer than those of numbers.
_CURVE_DRAWS = 1_000
_WORDS = {
    True: "supports the claim",
    False: "contradicts the claim",
    None: "cannot tell at this scale",
}
NOT_RUN = "not run yet"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The decision on a claim.

    Attributes:
      holds: whether the measurements support the claim; None if they do not decide it.
      reason: the reason, in words.
      lacks_runs: whether it is open because runs are missing.
    """

    holds: bool | None
    reason: str
    lacks_runs: bool = False

    @property
    def word(self) -> str:
        """What it does to the claim, in a few words; NOT_RUN if it is open for lack of runs."""
        return NOT_RUN if self.holds is None and self.lacks_runs else _WORDS[self.holds]

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


Rule = Callable[[Measurements], Verdict]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, and how it is judged.

    Attributes:
      text: the claim, in a sentence.
      refuted_by: the outcome that would contradict it, in words.
      rule: decides from the measurements.
      paper: the paper's figures for it, in a few words; "" where it gives none.
    """

    text: str
    refuted_by: str
    rule: Rule
    paper: str = ""


def ahead(model: str, of: str, metric: Metric) -> Rule:
    """Makes the rule that the mean over seeds of a model is better than that of another.

    The claim is supported if the whole bootstrap interval of the difference is on its side,
    contradicted if all of it is on the other; else, and with a single seed of either model, the
    measurements do not decide it.

    Args:
      model: the model claimed to be better.
      of: the model it is compared with.
      metric: the metric to compare.
    """

    def rule(measured: Measurements) -> Verdict:
        ours, theirs = (_values(measured, name, metric) for name in (model, of))
        if lack := _lack(metric, {model: ours, of: theirs}):
            return lack
        gain = metric.sign * (statistics.mean(ours) - statistics.mean(theirs))
        low, high = _lead(metric, ours, theirs)
        holds = True if low > 0 else False if high < 0 else None
        return Verdict(
            holds,
            f"the mean over seeds of {model} is {metric.lead(gain)} {of}, 95% interval "
            f"{metric.number(low)} to {metric.number(high)}",
        )

    return rule


def alike(model: str, of: str, metric: Metric, within: float) -> Rule:
    """Makes the rule that the means of two models differ by no more than a margin.

    Supported if the whole bootstrap interval of the difference lies within the margin, contradicted
    if all of it lies outside.

    Args:
      model, of, metric: see `ahead`.
      within: the margin, in the metric's unit.
    """

    def rule(measured: Measurements) -> Verdict:
        ours, theirs = (_values(measured, name, metric) for name in (model, of))
        if lack := _lack(metric, {model: ours, of: theirs}):
            return lack
        low, high = _lead(metric, ours, theirs)
        inside = -within <= low and high <= within
        outside = low > within or high < -within
        return Verdict(
            True if inside else False if outside else None,
            f"{model} less {of}: 95% interval {metric.number(low)} to {metric.number(high)}, where "
            f"up to {metric.number(within)} counts as alike",
        )

    return rule


def steadier(model: str, than: str, metric: Metric) -> Rule:
    """Makes the rule that the seeds of a model differ less than those of another.

    The standard deviations over seeds are compared by the bootstrap interval of the logarithm of
    their ratio. A diverged seed counts as infinitely far: a model with one is not steady.

    Args:
      model: the model claimed to be steadier.
      than: the model it is compared with.
      metric: the metric whose seeds are compared.
    """

    def rule(measured: Measurements) -> Verdict:
        ours, theirs = (_values(measured, name, metric) for name in (model, than))
        if lack := _lack(metric, {model: ours, than: theirs}):
            return lack
        diverged = [any(map(math.isinf, values)) for values in (ours, theirs)]
        if any(diverged):
            holds = {(False, True): True, (True, False): False}.get(tuple(diverged))
            told = [
                f"{name} {'diverged' if is_so else 'did not'}"
                for name, is_so in zip((model, than), diverged, strict=True)
            ]
            return Verdict(holds, "seeds of " + ", of ".join(told))
        low, high = bootstrap.interval(_log_ratio, theirs, ours)
        spreads = (statistics.stdev(values) for values in (ours, theirs))
        ours_text, theirs_text = map(metric.number, spreads)
        return Verdict(
            True if low > 0 else False if high < 0 else None,
            f"standard deviation over seeds {ours_text} of {model}, {theirs_text} of {than}; 95% "
            f"interval of the ratio {math.exp(low):.2g} to {math.exp(high):.2g}",
        )

    return rule


def keeps(student: str, teacher: str, base: str, metric: Metric) -> Rule:
    """Makes the rule that a student keeps a part of its teacher's lead over a base model.

    The share kept is (student - base) / (teacher - base), of means over seeds (Table 6). Supported
    if its whole bootstrap interval is above zero, contradicted if all of it is below. If the
    teacher's lead itself is not clear, there is nothing to keep, and it is not decided.

    Args:
      student, teacher, base: the models.
      metric: the metric to compare.
    """
    leads = ahead(teacher, base, metric)

    def rule(measured: Measurements) -> Verdict:
        values = {name: _values(measured, name, metric) for name in (student, teacher, base)}
        if lack := _lack(metric, values):
            return lack
        lead = leads(measured)
        if not lead.holds:
            return Verdict(None, f"no lead to keep: {lead.reason}")
        ours, theirs, bases = (statistics.mean(found) for found in values.values())
        low, high = bootstrap.interval(_share, *values.values())
        return Verdict(
            True if low > 0 else False if high < 0 else None,
            f"{student} keeps {(ours - bases) / (theirs - bases):.0%} of the lead of {teacher} "
            f"over {base}, 95% interval {low:.0%} to {high:.0%}",
        )

    return rule


def faster(model: str, than: str, curves: Sequence[Metric], at_least: float = 1.0) -> Rule:
    """Makes the rule that a model needs fewer steps for the last NLP of another, in each of tasks.

    The speed-up of a task is the last step of the other model over the step at which this one
    has its NLP, both of mean curves over seeds (Fig. 8); where it never has, 0.

    Args:
      model: the model claimed to be faster.
      than: the model it is compared with.
      curves: a metric of `metrics.curve_of` for each task.
      at_least: the mean over tasks of the speed-up is claimed to be above this.
    """

    def rule(measured: Measurements) -> Verdict:
        of = {name: [_values(measured, name, c) for c in curves] for name in (model, than)}
        few = [name for name, found in of.items() if min(map(len, found)) < 2]
        if few:
            told = f"two seeds at least are needed of {' and of '.join(few)}"
            return Verdict(None, told, lacks_runs=True)
        found = [_speed_up(ours, theirs) for ours, theirs in zip(*of.values(), strict=True)]
        rng = np.random.default_rng(0)
        draws = [
            statistics.mean(
                _speed_up(_drawn(rng, ours), _drawn(rng, theirs))
                for ours, theirs in zip(*of.values(), strict=True)
            )
            for _ in range(_CURVE_DRAWS)
        ]
        low, high = np.percentile(draws, (2.5, 97.5))
        return Verdict(
            True if low > at_least else False if high < at_least else None,
            f"{model} needs {statistics.mean(found):.2f} times fewer steps than {than}, mean over "
            f"{len(found)} tasks, 95% interval {low:.2f} to {high:.2f}; single tasks from "
            f"{min(found):.2f} to {max(found):.2f}",
        )

    return rule


def ahead_by(model: str, of: str, metric: Metric, times: float) -> Rule:
    """Makes the rule that a model is ahead by several times the distance between seeds.

    Unlike `ahead`, it needs several seeds of the other model alone.

    Args:
      model: the model claimed to be ahead.
      of: the model it is compared with.
      metric: the metric to compare.
      times: how many times the distance between the lowest and the highest seed of `of`.
    """

    def rule(measured: Measurements) -> Verdict:
        ours, theirs = (_values(measured, name, metric) for name in (model, of))
        if not ours or len(theirs) < 2:
            told = f"this needs {metric.name} of {model} and of two seeds of {of}"
            return Verdict(None, told, lacks_runs=True)
        gain = metric.sign * (statistics.mean(ours) - statistics.mean(theirs))
        spread = max(theirs) - min(theirs)
        alone = f"; {model} has one seed, whose own spread is not known" if len(ours) == 1 else ""
        ratio = f"{abs(gain) / spread:.1f} times " if spread else ""
        return Verdict(
            gain > 0 if abs(gain) >= times * spread else None,
            f"{model} is {metric.lead(gain)} {of}, {ratio}the difference of "
            f"{spread:.{metric.digits}f} between the seeds of {of}; at least {times:g} times is "
            f"required{alone}",
        )

    return rule


def every(rules: Sequence[Rule]) -> Rule:
    """Makes the rule that all rules hold; one that is contradicted contradicts it."""

    def rule(measured: Measurements) -> Verdict:
        found = [each(measured) for each in rules]
        holds = False if any(v.holds is False for v in found) else None
        reasons = "; ".join(verdict.reason for verdict in found)
        lacks_runs = any(v.lacks_runs for v in found)
        return Verdict(True if all(v.holds for v in found) else holds, reasons, lacks_runs)

    return rule


def _values(measured: Measurements, model: str, metric: Metric) -> Sequence[float]:
    return measured.get(model, {}).get(metric.name, ())


def _lack(metric: Metric, values: Mapping[str, Sequence[float]]) -> Verdict | None:
    """The verdict where runs are missing for a comparison over seeds; None if none is."""
    few = [f"{len(found)} of {model}" for model, found in values.items() if len(found) < 2]
    told = f"{metric.name} needs two seeds at least: there are {' and '.join(few)}"
    return Verdict(None, told, lacks_runs=True) if few else None


def _lead(metric: Metric, ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The interval of how far one is ahead; a diverged seed is far behind all others."""
    low, high = bootstrap.interval(bootstrap.lead, _finite(ours), _finite(theirs))
    return (low, high) if metric.sign > 0 else (-high, -low)


def _finite(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.copysign(1e6, value) for value in values]


def _log_ratio(theirs_DN, ours_DN):
    """The logarithm of the ratio of two standard deviations; equal values count as 1e-6 apart."""
    theirs_D, ours_D = (np.maximum(v.std(-1, ddof=1), 1e-6) for v in (theirs_DN, ours_DN))
    return np.log(theirs_D) - np.log(ours_D)


def _share(student_DN, teacher_DN, base_DN):
    base_D = base_DN.mean(-1)
    return (student_DN.mean(-1) - base_D) / (teacher_DN.mean(-1) - base_D)


def _speed_up(ours: Sequence[Curve], theirs: Sequence[Curve]) -> float:
    base = Curve.mean(theirs)
    steps = Curve.mean(ours).steps_to(base.nlp[-1])
    return base.steps[-1] / steps if steps else 0.0


def _drawn(rng: np.random.Generator, sample: Sequence) -> list:
    return [sample[i] for i in rng.integers(len(sample), size=len(sample))]
