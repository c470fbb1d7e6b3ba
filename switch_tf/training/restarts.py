"""When the process of a long run on CPU starts anew, as its all-reduces keep memory."""

from switch_tf import process, runtime
from switch_tf.rules import Count, configurable


@configurable
class Restarts:
    """Says when `switch-tf train` saves and starts itself anew, which changes none of its figures.

    On CPU devices TensorFlow keeps about a kilobyte for each all-reduce that is made: in a small
    model some 10 kB per step, which only the end of the process gives back
    (docs/keras_dtensor.md, rule 12). On other devices, and where `train` is called from Python,
    nothing is restarted.

    Args:
      period: steps after which it starts anew. It takes as long as a save, the start and the
        compilation of a run: half a minute for a small model. The memory kept until then grows with
        the period; the default keeps about a gigabyte. None: never.
    """

    def __init__(self, period: Count | None = 100_000):
        self.period = period

    def due(self, steps: int) -> bool:
        """Whether a process that has made so many steps is to start anew; the same on all hosts."""
        if self.period is None or not process.can_restart() or runtime.device_type() != "CPU":
            return False
        return steps >= self.period
