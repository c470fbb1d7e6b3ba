"""Warns, once per layer, when routing collapses onto few experts or leaves some without tokens."""

import math

import numpy as np

from switch_tf.rules import Count, NonNegative, configurable


@configurable
class LoadWatch:
    """Watches the expert load of each Switch layer, step by step.

    Args:
      min_load_entropy: the load's entropy, divided by log E of an even load, below which a layer
        counts as collapsed: 1 is even, 0 puts all tokens on one expert. At 0.7 the load is that of
        about E ** 0.7 equally used experts (30 of 128). Raise it to be warned of milder imbalance,
        lower it if a skewed load is expected.
      steps: number of consecutive steps with low entropy, or without a token for an expert, before
        a warning. Fewer warn sooner, but also of passing imbalance early in training; keep 100.
    """

    def __init__(self, min_load_entropy: NonNegative = 0.7, steps: Count = 100):
        self._min_load_entropy = min_load_entropy
        self._steps = steps
        self._low: dict[str, int] = {}
        self._dead: dict[str, np.ndarray] = {}
        self._told: set[tuple[str, str]] = set()

    def see(self, loads: dict[str, np.ndarray]) -> list[str]:
        """Returns the warnings due after a step.

        Args:
          loads: layer -> each expert's share of the tokens routed to it, [experts].
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
                    f"warning: {layer}: the load's entropy was below {self._min_load_entropy} of "
                    f"an even load's for {low} steps and is now {entropy:.2f}: raise "
                    "Router.load_balancing_coef or lower the learning rate"
                )
            without = self._dead.get(layer, np.zeros(len(load_E), int)) + 1
            without[np.asarray(load_E) > 0] = 0
            self._dead[layer] = without
            dead = np.flatnonzero(without >= self._steps)
            if len(dead) and self._first(layer, "dead"):
                warnings.append(
                    f"warning: {layer}: no token chose {len(dead)} of {len(load_E)} experts "
                    f"(first: expert {dead[0]}) for {self._steps} steps: raise "
                    "Router.load_balancing_coef"
                )
        return warnings

    def _first(self, layer: str, kind: str) -> bool:
        told = (layer, kind) in self._told
        self._told.add((layer, kind))
        return not told


def load_entropy(load_E) -> float:
    """The entropy of a load, divided by that of an even load.

    Args:
      load_E: each expert's share of the tokens, [experts], for at least two experts.
    """
    load_E = np.asarray(load_E, np.float64)
    some = load_E[load_E > 0]
    return float(-np.sum(some * np.log(some)) / math.log(len(load_E)))
