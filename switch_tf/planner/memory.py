"""The memory that a training step takes, by the peak of the process that runs it."""

import re
from collections.abc import Callable
from pathlib import Path

from switch_tf.training.step import TrainStep

_STEPS = 2


def peak_bytes() -> int:
    """The peak resident memory of this process so far, in bytes (Linux)."""
    # Not getrusage's maximum, which a process inherits from its parent.
    told = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(told[1])


def bytes_of_steps(make_step: Callable[[], TrainStep], features) -> int:
    """Bytes by which training steps raise the peak, over all devices of this process.

    Includes compilation and accumulated gradients of micro-batches, but not weights that were
    allocated before.

    Args:
      make_step: makes the step, which is then compiled.
      features: a batch on the mesh.
    """
    before = peak_bytes()
    step = make_step()
    for number in range(_STEPS):
        step(features, number)
    return peak_bytes() - before
