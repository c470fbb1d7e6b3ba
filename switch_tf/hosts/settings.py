"""What gin sets of a run on several hosts."""

import dataclasses

from switch_tf.rules import Positive, configurable

TIMEOUT = 300.0


@configurable
@dataclasses.dataclass(frozen=True)
class Hosts:
    """How the hosts of a run wait for each other.

    Attributes:
      timeout: seconds until a host that does not come, at the start, at a save or at a stop, ends
        the run with an error that names it. It must be longer than what one host may be behind the
        others, such as in reading data; shorter loses less time when a host is gone. A host whose
        process ends in a step is noticed in about ten seconds, whatever this is.
    """

    timeout: Positive = TIMEOUT
