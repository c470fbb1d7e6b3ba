"""What the time of profiled steps went on, by the trace that TensorFlow's profiler writes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

# In picoseconds, from a start to an end.
Interval = tuple[int, int]
_ACCELERATOR = re.compile(r"/device:(GPU|TPU):\d+")
# How TensorFlow calls an operation on the host: its place in the graph, and its type.
_OPERATION = re.compile(r"[\w.\-/]+:(?P<kind>\w+)")
# Operations that only call others, whose time is that of what they call.
_CALLS = ("PartitionedCall", "StatefulPartitionedCall", "While", "If", "Case", "StatelessWhile")
# TensorFlow's types on CPU, kernels on GPU, and operations of XLA on TPU.
_COLLECTIVE = re.compile(
    r".*:Collective\w*"
    r"|nccl\w+.*"
    r"|%?(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)\b.*"
)


class Span(NamedTuple):
    """An operation, or a step, on the clock of the profile.

    Attributes:
      name: `name:type` of an operation on the host; a kernel's or XLA's name on an accelerator.
      start, end: picoseconds.
    """

    name: str
    start: int
    end: int


def host_spans(profile: bytes, step: str) -> Iterator[Span]:
    """The operations on the host, CPU devices' too, and the steps.

    Args:
      profile: the content of an `.xplane.pb`.
      step: the name of the events in which steps are made.
    """
    for plane in _space(profile).planes:
        for line in plane.lines:
            for span in _spans(plane, line):
                operation = _OPERATION.fullmatch(span.name)
                if span.name == step or (operation and operation["kind"] not in _CALLS):
                    yield span


def _space(profile: bytes):
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    return xplane_pb2.XSpace.FromString(profile)


def _spans(plane, line) -> Iterator[Span]:
    for event in line.events:
        start = 1000 * line.timestamp_ns + event.offset_ps
        name = plane.event_metadata[event.metadata_id].name
        yield Span(name, start, start + event.duration_ps)


@dataclasses.dataclass(frozen=True)
class Work:
    """What profiled steps do, in seconds of all of them, on average over the accelerators.

    CPU devices work on the same cores, and count as one.

    Attributes:
      computing: when at least one operation runs that is no collective.
      collectives: when collectives alone run, or are waited for.
    """

    computing: float
    collectives: float


def work(profile: bytes, step: str) -> Work | None:
    """What the steps in a profile do; None if it has no step, or no operation.

    Args:
      profile, step: see `host_spans`.
    """
    on_host = list(host_spans(profile, step))
    steps = union(span[1:] for span in on_host if span.name == step)
    devices = [found for plane in _space(profile).planes if (found := _of_accelerator(plane))]
    devices = devices or [[span for span in on_host if span.name != step]]
    if not steps or not any(devices):
        return None
    parts = [_parts(spans, steps) for spans in devices]
    return Work(*(1e-12 * sum(part) / len(parts) for part in zip(*parts, strict=True)))


def _of_accelerator(plane) -> list[Span]:
    """What an accelerator runs: operations of XLA, on GPU the kernels of each stream."""
    if not _ACCELERATOR.fullmatch(plane.name):
        return []
    lines = [line for line in plane.lines if line.name == "XLA Ops"]
    lines = lines or [line for line in plane.lines if line.name.startswith("Stream")]
    return [span for line in lines for span in _spans(plane, line)]


def _parts(spans: Sequence[Span], steps: Sequence[Interval]) -> tuple[int, int]:
    """How long of disjoint steps a device computes, and how long only collectives run."""
    computing = union(span[1:] for span in spans if not _COLLECTIVE.fullmatch(span.name))
    computed = length(overlap(computing, steps))
    busy = length(overlap(union(span[1:] for span in spans), steps))
    return computed, busy - computed


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same times as disjoint intervals, in order."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def overlap(some: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """The times in both of two results of `union`."""
    found, i, j = [], 0, 0
    while i < len(some) and j < len(others):
        start, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if start < end:
            found.append((start, end))
        if some[i][1] <= others[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(intervals: Iterable[Interval]) -> int:
    """The time that disjoint intervals take together."""
    return sum(end - start for start, end in intervals)
