"""How much memory a training step takes: the peak of the process that makes it."""

import re
from collections.abc import Callable
from pathlib import Path

from switch_tf.training.step import TrainStep

_STEPS = 2


def peak_bytes() -> int:
    """The most bytes of memory that this process ever held (Linux)."""
    # Not getrusage's, which begins with what the process that started this one held.
    told = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(told[1])


def bytes_of_steps(make_step: Callable[[], TrainStep], features) -> int:
    """Bytes by which training steps raise the peak, all devices of this process together.

    What compiling them takes is among it, and sums of gradients over micro-batches; the weights
    are not, if they were there before.

    Args:
      make_step: makes the step, which is compiled anew.
      features: on the mesh.
    """
    before = peak_bytes()
    step = make_step()
    for number in range(_STEPS):
        step(features, number)
    return peak_bytes() - before
