"""Warns, once a layer, when a router collapses: few experts take the tokens, or some take none."""

import math

import numpy as np

from switch_tf.rules import Count, NonNegative, configurable


@configurable
class LoadWatch:
    """Looks at the load of the experts of each Switch layer, step by step.

    Args:
      min_load_entropy: entropy of the load over that of an even one, log E, under which a layer is
        told of: 1 is even, 0 is all tokens to one expert.
      steps: how many steps in a row the entropy has to be under it, or an expert without a token.
    """

    def __init__(self, min_load_entropy: NonNegative = 0.7, steps: Count = 100):
        self._min_load_entropy = min_load_entropy
        self._steps = steps
        self._low: dict[str, int] = {}
        self._dead: dict[str, np.ndarray] = {}
        self._told: set[tuple[str, str]] = set()

    def see(self, loads: dict[str, np.ndarray]) -> list[str]:
        """The warnings that a step gives rise to.

        Args:
          loads: layer -> share of the tokens that chose each expert, [experts].
        """
        warnings = []
        for layer, load_E in loads.items():
            if len(load_E) < 2:
                continue
            entropy = load_entropy(load_E)
            low = self._low.get(layer, 0) + 1 if entropy < self._min_load_entropy else 0
            self._low[layer] = low
            if low >= self._steps and self._first(layer, "entropy"):
                warnings.append(
                    f"warning: {layer}: the load's entropy was under {self._min_load_entropy} of "
                    f"an even one for {low} steps, now {entropy:.2f}: raise "
                    "Router.load_balancing_coef or lower the learning rate"
                )
            without = self._dead.get(layer, np.zeros(len(load_E), int)) + 1
            without[np.asarray(load_E) > 0] = 0
            self._dead[layer] = without
            dead = np.flatnonzero(without >= self._steps)
            if len(dead) and self._first(layer, "dead"):
                warnings.append(
                    f"warning: {layer}: no token chose {len(dead)} of {len(load_E)} experts for "
                    f"{self._steps} steps, the first of them expert {dead[0]}: raise "
                    "Router.load_balancing_coef"
                )
        return warnings

    def _first(self, layer: str, kind: str) -> bool:
        told = (layer, kind) in self._told
        self._told.add((layer, kind))
        return not told


def load_entropy(load_E) -> float:
    """Entropy of a load over that of an even one.

    Args:
      load_E: share of the tokens of each expert, [experts], at least two.
    """
    load_E = np.asarray(load_E, np.float64)
    some = load_E[load_E > 0]
    return float(-np.sum(some * np.log(some)) / math.log(len(load_E)))
