"""Steps whose loss or gradient is not finite, or whose loss jumps: what a run does about them."""

import collections
import math
from collections.abc import Mapping
from typing import Literal

from switch_tf.rules import Count, Positive, configurable


@configurable
class BadSteps:
    """Tells bad steps, and what is to be done about them.

    Sparse models diverge more easily than dense ones (paper, Sec. 2.4). The batch of a bad step is
    kept in MODEL_DIR/bad_steps.

    Attributes:
      policy, back_steps: see below.
      count: number of bad steps so far.

    Args:
      policy: "stop" ends the run, and leaves its last checkpoint as it is. "skip" leaves the update
        out and goes on with the next batch; gradients, which are looked at before it, then take the
        memory of another copy of the weights. "back" restores the newest checkpoint of at least
        `back_steps` before, and goes on behind the bad batch, so that other batches follow on those
        weights: it helps where the weights were spoilt before the loss showed it, and costs those
        steps. Stop and look at the batch first; skip single ones in long runs that nobody watches.
      spike: nats above the mean of the last `window` losses from which a finite loss is bad, too.
        None: only what is not finite is. A batch may be hard without being bad: give several times
        what losses differ by, such as 1.0, where runs are seen to diverge.
      window: number of losses in that mean; before there are so many, none is too high.
      back_steps: see `policy`. Losses often rise some hundred steps after their cause: keep 100.
      most: number of bad steps in a run that are passed over before it stops after all. Many are a
        sign of a learning rate that is too high.
    """

    def __init__(
        self,
        policy: Literal["stop", "skip", "back"] = "stop",
        spike: Positive | None = None,
        window: Count = 100,
        back_steps: Count = 100,
        most: Count = 10,
    ):
        self.policy = policy
        self.back_steps = back_steps
        self.count = 0
        self._spike = spike
        self._most = most
        self._losses: collections.deque[float] = collections.deque(maxlen=window)

    def fault(self, loss: float, is_finite: bool = True) -> str | None:
        """What is bad about a step; None if nothing is.

        Args:
          loss: its loss.
          is_finite: whether its gradients are finite, as far as that is known.
        """
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if not is_finite:
            return f"a gradient is not finite, with a loss of {loss:.4g},"
        losses = self._losses
        if self._spike is None or len(losses) < losses.maxlen:
            return None
        above = loss - sum(losses) / len(losses)
        if above <= self._spike:
            return None
        return f"loss is {loss:.4g}, {above:.3g} above the mean of the last {len(losses)} steps,"

    def stops(self) -> bool:
        """Whether a run ends with its last bad step."""
        return self.policy == "stop" or self.count > self._most

    def passed(self, loss: float) -> None:
        """Takes the loss of a step that was good."""
        if self._spike is not None:
            self._losses.append(loss)

    def state(self) -> dict:
        """What a run that resumes has to know, as JSON can hold it; empty if it is nothing."""
        found = {"bad_steps": self.count, "losses": list(self._losses)}
        return {name: value for name, value in found.items() if value}

    def restore(self, state: Mapping, keeps_count: bool = False) -> None:
        """Takes the result of `state`.

        Args:
          state: as of a checkpoint.
          keeps_count: whether the run has met more bad steps since.
        """
        if not keeps_count:
            self.count = state.get("bad_steps", 0)
        self._losses.clear()
        self._losses.extend(state.get("losses", ()))
