"""What the parts of a training step take, from a profile of its operations.

At each moment of the step, the time is shared equally by the operations that then run; what is left
is when none does. So the parts add up to the step, although operations run at the same time.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import tensorflow as tf

from switch_tf.metrics.trace import Span, host_spans

# In this order the first that is found in an operation's name is its part.
_PARTS = {
    "collectives": r":Collective",
    "router": r"/router(_\d+)?/",
    "dispatch and combine": r"/(dispatch|combine)(_\d+)?/",
    "experts": r"/experts(_\d+)?/",
    "attention": r"/(self_attention|cross_attention|attention|relative_position)",
    "dense FFN": r"/ffn(_\d+)?/",
    "norms, residuals, dropout": r"/(encoder|decoder)(_\d+)?/",
    "embedding and softmax": r"/(embedding|softmax)(_\d+)?/",
    "loss": r"(^|/)loss/",
    "optimizer": r"(^|/)optimizer/",
}
OTHER, WAITING = "other operations", "no operation runs"
PARTS = (*_PARTS, OTHER, WAITING)
WAYS = ("forward", "backward")
_PATTERNS = {part: re.compile(pattern) for part, pattern in _PARTS.items()}
_STEP = "benched_step"


def part_of(name: str) -> tuple[str, str]:
    """The part of an operation, and one of `WAYS`.

    >>> part_of("gradient_tape/model/encoder/layer_0/feed_forward/ffn/wi/MatMul:MatMul")
    ('dense FFN', 'backward')
    """
    found = (part for part, pattern in _PATTERNS.items() if pattern.search(name))
    return next(found, OTHER), WAYS["gradient_tape" in name]


def part_seconds(call: Callable[[], object], times: int) -> dict[tuple[str, str], float]:
    """Mean seconds of each part of a call, by part and one of `WAYS`; they add up to the call.

    Args:
      call: a compiled step, called before; returns when it is done.
      times: number of calls.
    """
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for number in range(times):
                with tf.profiler.experimental.Trace(_STEP, step_num=number):
                    call()
        (path,) = Path(folder).rglob("*.xplane.pb")
        spans = list(host_spans(path.read_bytes(), _STEP))
    operations = [span for span in spans if span.name != _STEP]
    found: dict[tuple[str, str], float] = {}
    for step in (span for span in spans if span.name == _STEP):
        for part, seconds in seconds_by_part(step, operations).items():
            found[part] = found.get(part, 0.0) + seconds / times
    return found


def seconds_by_part(step: Span, operations: Iterable[Span]) -> dict[tuple[str, str], float]:
    """Seconds of a step by part, and one of `WAYS`; they add up to the step.

    Args:
      step: the step.
      operations: operations on any threads, also of other steps.
    """
    changes = []
    for operation in operations:
        start, end = max(operation.start, step.start), min(operation.end, step.end)
        if start < end:
            part = part_of(operation.name)
            changes += [(start, 1, part), (end, -1, part)]
    changes.append((step.end, 0, (WAITING, WAYS[0])))
    running: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, str], float] = {}
    now = step.start
    for moment, change, part in sorted(changes, key=lambda each: each[:2]):
        sharing = {p: n for p, n in running.items() if n} or {(WAITING, WAYS[0]): 1}
        each = 1e-12 * (moment - now) / sum(sharing.values())
        for other, number in sharing.items():
            found[other] = found.get(other, 0.0) + number * each
        running[part] = running.get(part, 0) + change
        now = moment
    return found
