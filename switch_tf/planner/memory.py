"""How much memory a training step takes: the peak of the process that makes it."""

import resource

from switch_tf.mesh import to_numpy

_STEPS = 2


def peak_bytes() -> int:
    """The most bytes of memory that this process ever held."""
    # Linux counts in KiB.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bytes_of_steps(step, features) -> int:
    """Bytes by which training steps raise the peak, all devices of this process together.

    What compiling them takes is among it; the weights are not, if they were there before.

    Args:
      step: `TrainStep`.
      features: on the mesh.
    """
    before = peak_bytes()
    for number in range(_STEPS):
        to_numpy(step.function(*step.arguments(features, number)))
    return peak_bytes() - before
