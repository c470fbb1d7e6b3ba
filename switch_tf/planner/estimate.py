"""What a training run needs of a TPU slice, and how long it takes there, on paper.

Time is that of a roofline by parts: matrix products at the peak rate, what other operations move
through memory at its bandwidth, and collectives at that of the links, one after the other; all of
it divided by one efficiency, the same for every model and slice. That is the only constant that is
fitted: to the speeds of the paper's Table 1 (`switch_tf.pages.planned`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator

from switch_tf.errors import UserError
from switch_tf.metrics.tables import size, table
from switch_tf.optimizers.base import Optimizer
from switch_tf.planner.counts import Counts, parts
from switch_tf.planner.parts import Part, StepSizes
from switch_tf.planner.slices import PRICED, Group, Slice, groups

# The share of the roofline's speed that the paper's models reach on v3-32, fitted to Table 1.
EFFICIENCY = 0.695
_FLOAT32 = 4
# Axis of the relative positions' bias, whose gradient is summed before it is that of a table.
_BIAS = "buckets"
# How often a byte that is kept moves: written and read in the forward pass, read in the backward
# pass, and its gradient written and read there.
_PASSES = 5
# An update reads and writes each weight, and reads its gradient twice.
_UPDATE_PASSES = 4
# The forward and the backward pass read each weight, and the latter writes its gradient.
_WEIGHT_PASSES = 3


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind along one mesh dimension, in a whole step.

    Attributes:
      kind: "all-to-all" or "all-reduce".
      over: the mesh dimension.
      devices: devices along it.
      sent: bytes that each device sends.
      count: number of operations, before any are joined.
    """

    kind: str
    over: str
    devices: int
    sent: int
    count: int


@dataclasses.dataclass(frozen=True)
class PaperStep:
    """A training step on paper: bytes by kind, operations and collectives of each device.

    Attributes:
      sizes: its sizes.
      counts: its model, counted.
      optimizer: its optimizer, which need not be built.
      is_trained: tells from a weight's path whether it is trained.
      rematerialize: whether activations of blocks are made again.
    """

    sizes: StepSizes
    counts: Counts
    optimizer: Optimizer
    is_trained: Callable[[str], bool] = lambda path: True
    rematerialize: bool = False

    @functools.cached_property
    def _parts(self) -> list[Part]:
        return self.sizes.parts()

    @functools.cached_property
    def _held(self) -> dict[str, int]:
        """Elements of a device's weights: all, trained, and of those summed over the batch."""
        mesh, held = self.sizes.mesh, dict.fromkeys(("all", "trained", "summed"), 0)
        over = mesh.rules.get("batch")
        for weight in self.counts.weights:
            elements = math.prod(weight.shape) // parts(weight.axes, mesh)
            held["all"] += elements
            if self.is_trained(weight.path):
                held["trained"] += elements
                is_bias = _BIAS in weight.axes
                if not is_bias and over not in (mesh.rules.get(axis) for axis in weight.axes):
                    held["summed"] += elements
        return held

    @functools.cached_property
    def bytes_by_kind(self) -> dict[str, int]:
        """Kind -> bytes on each device, while a step is taken."""
        trained = _FLOAT32 * self._held["trained"]
        kept, buffers = (self._needed(name) for name in ("kept", "buffers"))
        found = {
            "weights": _FLOAT32 * self._held["all"],
            "gradients": trained,
            "optimizer slots": self.counts.slot_bytes(
                self.sizes.mesh, self.optimizer, self.is_trained
            ),
            "activations": kept,
            "experts' buffers": buffers,
            "in flight": self._in_flight,
        }
        if self.sizes.microbatches > 1:
            found["sums of gradients"] = trained
        return found

    @property
    def activation_bytes(self) -> dict[bool, int]:
        """Whether blocks are made again -> bytes of activations and experts' buffers."""
        return {
            again: sum(self._needed(name, again) for name in ("kept", "buffers"))
            for again in (False, True)
        }

    def _needed(self, name: str, again: bool | None = None) -> int:
        """Bytes of `Part.kept` or `Part.buffers` at the end of the forward pass."""
        if not (self.rematerialize if again is None else again):
            return sum(getattr(part, name) for part in self._parts)
        outside = sum(getattr(part, name) for part in self._parts if part.block is None)
        blocks = defaultdict(int)
        for part in self._parts:
            if part.block is not None:
                blocks[part.block] += getattr(part, name)
        # The inputs of all blocks, and one block at a time.
        inputs = self.sizes.block_inputs if name == "kept" else 0
        return outside + inputs + max(blocks.values(), default=0)

    @property
    def _in_flight(self) -> int:
        """Bytes of the largest all-to-all, sent and received, or of the logits' gradient."""
        sent = (
            one.elements * one.element_bytes
            for part in self._parts
            for one in part.exchanges
            if one.kind == "all-to-all"
        )
        return max(2 * max(sent, default=0), self.sizes.logits_bytes)

    @functools.cached_property
    def traffic(self) -> list[Traffic]:
        """The collectives of a step, by kind and mesh dimension."""
        mesh, times = self.sizes.mesh, self.sizes.microbatches
        found = defaultdict(lambda: [0, 0])
        for part in self._parts:
            again = self.rematerialize and part.block is not None
            for one in part.exchanges:
                count = times * (one.forward + one.backward + again * one.again)
                found[one.kind, one.over][0] += count * one.elements * one.element_bytes
                found[one.kind, one.over][1] += count
        if mesh.ways("batch") > 1:
            summed = found["all-reduce", mesh.rules["batch"]]
            summed[0] += times * _FLOAT32 * self._held["summed"]
            summed[1] += times
        return [
            Traffic(kind, over, mesh.shape[over], sent, count)
            for (kind, over), (sent, count) in sorted(found.items())
        ]

    @property
    def flops(self) -> float:
        """Operations of the matrix products of a device in a step, with those made again."""
        total = sum(
            part.flops * (2 if self.rematerialize and part.block is not None else 1)
            + part.backward_flops
            for part in self._parts
        )
        return total * self.sizes.microbatches

    @property
    def moved(self) -> int:
        """Bytes that a device's memory reads and writes in a step, beside those of products."""
        kept = sum(part.kept + part.buffers for part in self._parts)
        passing = sum(part.passing for part in self._parts)
        # Made again, they are written and read once more.
        activations = kept * (_PASSES + 2 * self.rematerialize)
        activations += passing * (1 + self.rematerialize)
        weights = _FLOAT32 * self._held["all"]
        once = _UPDATE_PASSES * _FLOAT32 * self._held["trained"]
        return self.sizes.microbatches * (activations + _WEIGHT_PASSES * weights) + once


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A step on a slice.

    Attributes:
      step: the step; its mesh has as many devices as the slice.
      slice: the slice.
    """

    step: PaperStep
    slice: Slice

    def __post_init__(self):
        """Checks that the mesh is that of the slice.

        Raises:
          UserError: it has another number of devices.
        """
        mesh = self.step.sizes.mesh
        if mesh.size != self.slice.devices:
            raise UserError(
                f"MESH_SHAPE has {mesh.size} devices, but {self.slice.name} has "
                f"{self.slice.devices}, {self.slice.chip.devices} a chip: change one of them, or "
                "leave MESH_SHAPE and gin/layouts out to see which meshes fit"
            )

    @functools.cached_property
    def needed(self) -> int:
        """Bytes on each device."""
        return sum(self.step.bytes_by_kind.values())

    @property
    def fits(self) -> bool:
        """Whether they are there."""
        return self.needed <= self.slice.chip.usable_bytes

    @functools.cached_property
    def roofline(self) -> dict[str, float]:
        """Seconds of a step at the peak of what limits each of its parts."""
        chip = self.slice.chip
        dtype = self.step.sizes.model.compute_dtype
        seconds = {
            "matrix products": self.step.flops / (chip.flops[dtype] / chip.devices),
            "memory": self.step.moved / (chip.memory_bandwidth / chip.devices),
        }
        for one, taken in self.traffic_seconds():
            seconds[one.kind] = seconds.get(one.kind, 0.0) + taken
        return seconds

    def traffic_seconds(self) -> list[tuple[Traffic, float]]:
        """The step's collectives, and the seconds that they take."""
        return [(one, self._take(one.kind, one.over, one.sent)) for one in self.step.traffic]

    @functools.cached_property
    def _groups(self) -> dict[str, Group]:
        shape = self.step.sizes.mesh.shape
        return dict(zip(shape, groups([*shape.values()], self.slice), strict=True))

    def _take(self, kind: str, over: str, sent: float) -> float:
        """Seconds of collectives of a kind along a mesh dimension, of so many bytes."""
        group = self._groups[over]
        if kind == "all-to-all":
            return group.all_to_all_seconds(sent)
        return group.all_reduce_seconds(sent)

    @functools.cached_property
    def seconds(self) -> float:
        """Seconds of a step."""
        return sum(self.roofline.values()) / EFFICIENCY

    @property
    def forward_seconds(self) -> float:
        """Seconds of its forward pass alone, as a teacher takes it."""
        step, chip = self.step, self.slice.chip
        parts, times = step.sizes.parts(), step.sizes.microbatches
        flops = sum(part.flops for part in parts)
        moved = sum(2 * (part.kept + part.buffers) + part.passing for part in parts)
        moved += step.bytes_by_kind["weights"]
        links = sum(
            self._take(one.kind, one.over, one.forward * one.elements * one.element_bytes)
            for part in parts
            for one in part.exchanges
        )
        peak = chip.flops[step.sizes.model.compute_dtype] / chip.devices
        seconds = flops / peak + moved / (chip.memory_bandwidth / chip.devices) + links
        return times * seconds / EFFICIENCY

    @property
    def examples_per_second(self) -> float:
        """Rows of a batch a second."""
        return self.step.sizes.data.batch_size / self.seconds

    def chip_hours(self, steps: int) -> float:
        """Hours of so many steps, times the number of chips."""
        return steps * self.seconds / 3600 * self.slice.chips

    def dollars(self, steps: int) -> float:
        """What so many steps cost at the list price."""
        return self.chip_hours(steps) * self.slice.chip.dollars


def lines(estimate: Estimate, steps: int) -> Iterator[str]:
    """The lines of an estimate.

    Args:
      estimate: what to show.
      steps: steps of the run.
    """
    step, chip = estimate.step, estimate.slice.chip
    yield estimate.slice.describe()
    rows = [("on each device", "bytes")]
    rows += [(kind, size(count)) for kind, count in step.bytes_by_kind.items() if count]
    rows.append(("total", size(estimate.needed)))
    rows.append(("there are", size(chip.usable_bytes)))
    yield from table(rows)
    whole, again = step.activation_bytes.values()
    yield (
        f"activations and experts' buffers: {size(whole)}, or {size(again)} with "
        "TransformerEncoderDecoder.rematerialize=True"
    )
    traffic = [("in a step", "along", "devices", "each sends", "seconds")]
    for one, seconds in estimate.traffic_seconds():
        traffic.append((one.kind, one.over, one.devices, size(one.sent), f"{seconds:.3g}"))
    if len(traffic) > 1:
        yield from table(traffic)
    named = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in estimate.roofline.items())
    yield (
        f"a step: {named}; at an efficiency of {EFFICIENCY}, {estimate.seconds:.3g} s, or "
        f"{estimate.examples_per_second:,.0f} examples/s"
    )
    yield (
        f"{steps:,} steps: {steps * estimate.seconds / 3600:,.1f} hours, "
        f"{estimate.chip_hours(steps):,.0f} chip-hours, {estimate.dollars(steps):,.0f} dollars at "
        f"{chip.dollars:.2f} a chip-hour, a list price ({PRICED})"
    )
    if estimate.fits:
        yield f"it fits: {size(chip.usable_bytes - estimate.needed)} of each device are left"


def check_fits(estimate: Estimate) -> None:
    """Checks that a step fits.

    Raises:
      UserError: it does not; the message says by how much, and what takes less.
    """
    if not estimate.fits:
        there = estimate.slice.chip.usable_bytes
        raise UserError(
            f"the step needs {size(estimate.needed)} on each device, but a device of "
            f"{estimate.slice.name} has {size(there)}: set TrainStep.microbatches or "
            "TransformerEncoderDecoder.rematerialize=True, or take a larger slice; without "
            "MESH_SHAPE, the same command lists what fits"
        )
