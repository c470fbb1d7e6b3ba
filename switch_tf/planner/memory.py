"""How much memory a training step takes: the peak of the process that makes it."""

import resource
from collections.abc import Callable

from switch_tf.training.step import TrainStep

_STEPS = 2


def peak_bytes() -> int:
    """The most bytes of memory that this process ever held."""
    # Linux counts in KiB.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
