"""Whether measurements support a claim, given the variation between seeds."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from switch_tf.reproduce.metrics import Measurements, Metric


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The decision on a claim.

    Attributes:
      holds: whether the claim holds; None if the measurements do not decide it.
      reason: the reason, in words.
    """

    holds: bool | None
    reason: str

    def __str__(self) -> str:
        told = {True: "the claim holds", False: "the claim is refuted", None: "undecided"}
        return f"{told[self.holds]}: {self.reason}"


def ahead(model: str, of: str, metric: Metric) -> Callable[[Measurements], Verdict]:
    """Makes the rule that a model is ahead of another by more than the spread between seeds.

    Being behind by more than that refutes the claim. A smaller difference, or a single seed of
    either model, leaves it undecided.

    Args:
      model: the model claimed to be ahead.
      of: the model it is compared with.
      metric: the metric to compare.
    """

    def rule(measured: Measurements) -> Verdict:
        values = {name: measured[name].get(metric.name, ()) for name in (of, model)}
        lacking = [name for name, found in values.items() if not found]
        if lacking:
            return Verdict(None, f"no {metric.name} of {' and of '.join(lacking)}")
        gain = statistics.mean(values[model]) - statistics.mean(values[of])
        is_clear, reason = _against_seeds(gain, values)
        return Verdict(
            gain > 0 if is_clear else None,
            f"the mean over seeds of {model} is {metric.lead(gain)} {of}: {reason}",
        )

    return rule


def ahead_by(
    model: str, of: str, metric: Metric, times: float
) -> Callable[[Measurements], Verdict]:
    """Makes the rule that a model is ahead by several times the distance between seeds.

    Unlike `ahead`, it needs several seeds of the other model alone.

    Args:
      model: the model claimed to be ahead.
      of: the model it is compared with.
      metric: the metric to compare.
      times: how many times the distance between the lowest and the highest seed of `of`.
    """

    def rule(measured: Measurements) -> Verdict:
        ours, theirs = (measured[name].get(metric.name, ()) for name in (model, of))
        if not ours or len(theirs) < 2:
            return Verdict(None, f"this needs {metric.name} of {model} and of two seeds of {of}")
        gain, spread = statistics.mean(ours) - statistics.mean(theirs), max(theirs) - min(theirs)
        ratio = f"{abs(gain) / spread:.1f} times " if spread else ""
        return Verdict(
            gain > 0 if abs(gain) >= times * spread else None,
            f"{model} is {metric.lead(gain)} {of}, {ratio}the difference of "
            f"{spread:.{metric.digits}f} between the seeds of {of}; at least {times:g} times is "
            "required",
        )

    return rule


def every(rules: Sequence[Callable[[Measurements], Verdict]]) -> Callable[[Measurements], Verdict]:
    """Makes the rule that all rules hold; it is refuted if one of them is."""

    def rule(measured: Measurements) -> Verdict:
        found = [each(measured) for each in rules]
        holds = False if any(v.holds is False for v in found) else None
        reasons = "; ".join(verdict.reason for verdict in found)
        return Verdict(True if all(v.holds for v in found) else holds, reasons)

    return rule


def _against_seeds(gain: float, values: Mapping[str, Sequence[float]]) -> tuple[bool, str]:
    """Whether a lead exceeds the spread between seeds; a single seed has no spread."""
    spread = max(max(found) - min(found) for found in values.values())
    if min(map(len, values.values())) > 1:
        is_clear = abs(gain) > spread
        return (
            is_clear,
            f"{'more' if is_clear else 'less'} than the spread between seeds ({spread:.3f})",
        )
    few = " and of ".join(model for model, found in values.items() if len(found) == 1)
    return False, f"seeds seen here differ by {spread:.3f}, but there is only one seed of {few}"
