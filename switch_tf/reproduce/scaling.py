"""Power laws of loss by size: ours, the paper's, and that of routed language models."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

# Experts -> parameters and NLP of T5-Base and of Switch-Base (Tables 6 and 7, the teachers).
PAPER = {
    1: (0.223e9, -1.636),
    16: (1.1e9, -1.505),
    32: (2.0e9, -1.474),
    64: (3.8e9, -1.444),
    128: (7.4e9, -1.432),
    256: (14.7e9, -1.427),
}
# log10(loss) = a log10(N) + b log10(E) + c log10(N) log10(E) + d, for a dense model of N parameters
# that is given E experts (Clark et al., 2022, "Unified Scaling Laws for Routed Language Models",
# equation 1; their S-BASE): b and c.
_ROUTED_B, _ROUTED_C = -0.108, 0.009


def exponent(sizes: Mapping[str, float], nlp: Mapping[str, Sequence[float]]) -> float | None:
    """The exponent a of loss ~ size^-a, by least squares of logarithms; None of one size.

    Args:
      sizes: model -> its size.
      nlp: model -> its NLP of each seed, in nats; models without a size do not count.
    """
    return _fitted({sizes[m]: statistics.mean(nlp[m]) for m in nlp if m in sizes})


def _fitted(nlp: Mapping[float, float]) -> float | None:
    if len(nlp) < 2:
        return None
    x, y = zip(*((math.log(size), math.log(-value)) for size, value in nlp.items()), strict=True)
    return float(-np.polyfit(x, y, 1)[0])


def of_paper() -> tuple[float, float]:
    """The paper's exponents, by parameters and by experts."""
    return (
        _fitted(dict(PAPER.values())),
        _fitted({experts: nlp for experts, (_, nlp) in PAPER.items()}),
    )


def of_routed_law(parameters: float) -> float:
    """The exponent a of loss ~ experts^-a that the law of routed models predicts.

    Args:
      parameters: those of the dense model that is given experts.
    """
    return -(_ROUTED_B + _ROUTED_C * math.log10(parameters))


def remark(
    experts: Mapping[str, int],
    parameters: Mapping[str, int],
    nlp: Mapping[str, Sequence[float]],
) -> str:
    """Sets our exponents beside those of the paper and of the law of routed models.

    Args:
      experts: model -> its number of experts, 1 of the dense model.
      parameters: model -> its parameters.
      nlp: model -> its last NLP of each seed.

    Returns:
      "" until the dense model and at least one other are there.
    """
    dense = next((m for m, number in experts.items() if number == 1 and m in nlp), None)
    by_experts = exponent(experts, nlp)
    if dense is None or by_experts is None:
        return ""
    of_them = {model: nlp[model] for model in experts if model in nlp}
    by_parameters = exponent(parameters, of_them)
    paper, its_experts = of_paper()
    small, base = parameters[dense], PAPER[1][0]
    return (
        f"Fitted to the means, the loss falls with parameters^-{by_parameters:.3f} and with "
        f"experts^-{by_experts:.3f}. The paper's T5-Base and Switch-Base of 16 to 256 experts "
        f"(Tables 6 and 7): parameters^-{paper:.3f}, experts^-{its_experts:.3f}. "
        "The scaling law of routed language models (Clark et al., 2022, for S-BASE): "
        f"experts^-{of_routed_law(small):.3f} for a dense model of {small / 1e6:.1f} million "
        f"parameters, experts^-{of_routed_law(base):.3f} for T5-Base's {base / 1e6:.0f} million."
    )
