"""What this machine does at best, to be timed in the same rounds as what is compared with it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib

# A backward pass has two matrix products for each of the forward pass.
PASSES = 3
# Large enough that a product takes many times as long as its start.
_MATRIX = 2048
# Far larger than all caches: 256 MB.
_COPIED = 1 << 26


@dataclasses.dataclass(frozen=True)
class Work:
    """A call that does a known amount of work.

    Attributes:
      call: returns when the work is done.
      amount: FLOPs or bytes of a call.
    """

    call: Callable[[], object]
    amount: float


def matrix_product(dtype: str) -> Work:
    """A product of two large square matrices on all cores; its amount is in FLOPs.

    Args:
      dtype: of the matrices.
    """
    random = np.random.default_rng(0)
    with mesh_lib.host():
        a_NN, b_NN = (
            tf.cast(random.normal(size=(_MATRIX, _MATRIX)).astype(np.float32), dtype)
            for _ in range(2)
        )

    def call():
        with mesh_lib.host():
            # Read at one place, which waits for the whole product.
            return tf.matmul(a_NN, b_NN)[0, 0].numpy()

    return _warm(Work(call, 2.0 * _MATRIX**3))


def addition_in_place() -> Work:
    """A float32 sum into a large variable on all cores; its amount is in bytes.

    Moves three times the variable's bytes: both terms are read, and the sum is written. Unlike a
    copy to new memory, it does not wait for the operating system, as updates of weights do not.
    """
    with mesh_lib.host():
        variable, term = tf.Variable(tf.zeros([_COPIED])), tf.ones([_COPIED])

    def call():
        with mesh_lib.host():
            variable.assign_add(term, read_value=False)
            return variable[0].numpy()

    return _warm(Work(call, 3.0 * 4 * _COPIED))


def _warm(work: Work) -> Work:
    work.call()
    return work


def seconds_since_start() -> float:
    """Seconds since this process started (Linux)."""
    # The name, in brackets, may hold spaces; the start is the 22nd field.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
