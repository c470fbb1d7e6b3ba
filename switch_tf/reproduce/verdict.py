"""What measured figures say of a claim, given what seeds alone do."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from switch_tf.reproduce.metrics import Measured, Metric


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim holds.

    Attributes:
      holds: None where what was measured does not tell.
      reason: in words.
    """

    holds: bool | None
    reason: str

    def __str__(self) -> str:
        told = {True: "the claim holds", False: "the claim is refuted", None: "undecided"}
        return f"{told[self.holds]}: {self.reason}"


def ahead(model: str, of: str, metric: Metric) -> Callable[[Measured], Verdict]:
    """The rule that a model is ahead of another by more than seeds alone do.

    Behind by as much refutes it; a difference within that, or one seed of a model, tells nothing.

    Args:
      model: that is claimed to be ahead.
      of: the other.
      metric: by which.
    """

    def rule(measured: Measured) -> Verdict:
        values = {name: measured[name].get(metric.name, ()) for name in (of, model)}
        lacking = [name for name, found in values.items() if not found]
        if lacking:
            return Verdict(None, f"no {metric.name} of {' and of '.join(lacking)}")
        gain = statistics.mean(values[model]) - statistics.mean(values[of])
        is_clear, reason = _against_seeds(gain, values)
        text = f"{gain:+.{metric.digits}f} {metric.unit}".rstrip()
        return Verdict(
            gain > 0 if is_clear else None,
            f"{model}, the mean of its seeds, is {text} against {of}: {reason}",
        )

    return rule


def _against_seeds(gain: float, values: Mapping[str, Sequence[float]]) -> tuple[bool, str]:
    """Whether a lead is more than seeds do; one seed of a model says nothing of its others."""
    spread = max(max(found) - min(found) for found in values.values())
    if min(map(len, values.values())) > 1:
        is_clear = abs(gain) > spread
        return is_clear, f"{'more' if is_clear else 'less'} than seeds alone do ({spread:.3f})"
    few = " and of ".join(model for model, found in values.items() if len(found) == 1)
    return False, f"seeds seen here differ by {spread:.3f}, but of {few} there is one alone"
