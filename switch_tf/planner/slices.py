"""TPU slices: what a chip computes, holds and sends, by its maker's figures, and what it costs.

A slice is named as by Google Cloud, and the number in its name does not always mean the same:

| type | the number in the name counts | a chip has | devices of a mesh |
|---|---|---|---|
| v2, v3 | TensorCores | 2 TensorCores, each with its half of the memory | TensorCores |
| v4, v5p | TensorCores | 2 TensorCores that share the memory ("megacore") | chips |
| v5e (v5litepod), v6e | chips | 1 TensorCore | chips |

So v3-32 has 16 chips and 32 devices, v4-32 has 16 chips and 16 devices, and v6e-32 has 32 of both.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from switch_tf.errors import UserError

_GIB = 2.0**30
# What XLA keeps of a device's memory for itself: a v3 core of 16 GiB that runs out of memory
# reports "15.48G hbm" and "reserved 530.00M".
RESERVED_BYTES = 0.53 * _GIB


@dataclasses.dataclass(frozen=True)
class Chip:
    """A type of TPU chip, by figures of one chip.

    Attributes:
      name: as in the names of slices.
      cores: TensorCores.
      devices: devices of a mesh: 2 where the TensorCores do not share their memory, otherwise 1.
      counts_cores: whether the number in a slice's name counts TensorCores, not chips.
      flops: dtype -> matrix products' floating-point operations a second, at most. A TPU multiplies
        float32 as bfloat16, and adds up in float32, unless it is asked for more precision; so both
        have one rate, but float32 moves twice the bytes.
      memory_bytes: of HBM.
      memory_bandwidth: bytes of HBM a second.
      torus: dimensions of the torus in which each chip is linked to two neighbours.
      link_bandwidth: bytes a second of one link in one direction.
      ring_side: chips along a side of the torus from which on its ends are linked, so that it is a
        ring and not a line. Of three dimensions, all sides must be multiples of it.
      dollars: list price of an hour, on demand, in the cheapest region of the United States.
      source: of all these figures but the price.
    """

    name: str
    cores: int
    devices: int
    counts_cores: bool
    flops: dict[str, float]
    memory_bytes: float
    memory_bandwidth: float
    torus: int
    link_bandwidth: float
    ring_side: int
    dollars: float
    source: str

    @property
    def usable_bytes(self) -> float:
        """Bytes that a program can use of each device's memory."""
        return self.memory_bytes / self.devices - RESERVED_BYTES


def _products(flops: float) -> dict[str, float]:
    return {"bfloat16": flops, "float32": flops}


_DOCS = "docs.cloud.google.com/tpu/docs"
_LINKS = "jax-ml.github.io/scaling-book/tpus"
_CACM = "Jouppi et al., A Domain-Specific Supercomputer for Training DNNs, CACM 63(7), 2020"
CHIPS = {
    chip.name: chip
    for chip in (
        # Links of 496 Gbit/s.
        Chip(
            *("v2", 2, 2, True, _products(46e12), 16 * _GIB, 700e9),
            *(2, 62e9, 16, 1.50, _CACM),
        ),
        # Links of 656 Gbit/s.
        Chip(
            *("v3", 2, 2, True, _products(123e12), 32 * _GIB, 900e9),
            *(2, 82e9, 32, 2.00, f"{_DOCS}/v3; links: {_CACM}"),
        ),
        Chip(
            *("v4", 2, 1, True, _products(275e12), 32 * _GIB, 1200e9),
            *(3, 45e9, 4, 3.22, f"{_DOCS}/v4; links: {_LINKS}"),
        ),
        # 400 GB/s over 4 links in both directions.
        Chip(
            *("v5e", 1, 1, False, _products(197e12), 16e9, 819e9),
            *(2, 50e9, 16, 1.20, f"{_DOCS}/v5e"),
        ),
        # 1,200 GB/s over 6 links in both directions.
        Chip(
            *("v5p", 2, 1, True, _products(459e12), 95 * _GIB, 2765e9),
            *(3, 100e9, 4, 4.20, f"{_DOCS}/v5p"),
        ),
        # 800 GB/s over 4 links in both directions.
        Chip(
            *("v6e", 1, 1, False, _products(918e12), 32e9, 1638e9),
            *(2, 100e9, 16, 2.70, f"{_DOCS}/v6e"),
        ),
    )
}
# Of the prices: those of us-central1, of v4 in us-central2, and of v3 in us-east1; v2 and v3 are
# those of slices of 32 cores.
PRICED = "read on 27 November 2026"
PRICES = (
    "Google Cloud's list prices on demand, as SkyPilot's catalog has them "
    f"(skypilot-org/skypilot-catalog, catalogs/v8/gcp/vms.csv at 006059e), {PRICED}"
)
# What a planner can look through in seconds.
_MOST = 2**20
_ALIASES = {"v5litepod": "v5e"}
_NAME = re.compile(r"(?P<type>v\d+[a-z]*)-(?P<number>[1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class Slice:
    """A number of chips of one type, linked to a torus.

    Attributes:
      chip: their type.
      chips: their number.
    """

    chip: Chip
    chips: int

    @classmethod
    def parse(cls, name: str, given: str | None = None) -> Slice:
        """The slice of a name such as "v3-32"; see the table at the head of this module.

        Args:
          name: its name.
          given: how the user gave it, for errors; by default as --slice.

        Raises:
          UserError: the type is unknown, or the number is not one of whole chips, or too large.
        """
        given = given or f"--slice='{name}'"
        found = _NAME.fullmatch(name)
        kind = found and _ALIASES.get(found["type"], found["type"])
        if kind not in CHIPS:
            raise UserError(
                f"{given}: give TYPE-NUMBER, such as v3-32 or v6e-256; types are "
                + ", ".join(CHIPS)
            )
        chip, number = CHIPS[kind], int(found["number"])
        if chip.counts_cores and number % chip.cores:
            raise UserError(
                f"{given}: the number of a {kind} counts TensorCores, {chip.cores} a chip: give a "
                f"multiple of {chip.cores}"
            )
        if number > _MOST:
            raise UserError(f"{given}: give at most {_MOST}, far more than any machine has")
        return cls(chip, number // chip.cores if chip.counts_cores else number)

    @property
    def name(self) -> str:
        """As Google Cloud names it."""
        return f"{self.chip.name}-{self.chips * (self.chip.cores if self.chip.counts_cores else 1)}"

    @property
    def devices(self) -> int:
        """Number of devices of a mesh."""
        return self.chips * self.chip.devices

    def describe(self) -> str:
        """A line on what it has."""
        chip = self.chip
        what = "TensorCores" if chip.devices == chip.cores else "chips"
        return (
            f"{self.name}: {self.chips:,} chips, {self.devices:,} devices ({what}) of "
            f"{chip.flops['bfloat16'] / chip.devices / 1e12:.3g} TFLOP/s in bfloat16, "
            f"{chip.memory_bytes / chip.devices / 1e9:.3g} GB of memory at "
            f"{chip.memory_bandwidth / chip.devices / 1e9:.4g} GB/s; links of "
            f"{chip.link_bandwidth / 1e9:.3g} GB/s in a torus of "
            + " x ".join(map(str, self.sides))
        )

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of its torus in chips, as nearly equal as their prime factors allow."""
        sides = [1] * self.chip.torus
        for factor in sorted(_prime_factors(self.chips), reverse=True):
            sides[sides.index(min(sides))] *= factor
        return tuple(sorted(sides))

    def is_ring(self, side: int) -> bool:
        """Whether a side of its torus closes to a ring."""
        least = self.chip.ring_side
        if self.chip.torus == 3:
            return all(each % least == 0 for each in self.sides)
        return side >= least


class Side(NamedTuple):
    """How far a group extends along a side of the torus.

    Attributes:
      chips: its chips there.
      apart: the distance between them in links, which as many groups then share.
      is_ring: whether the links between them close to a ring.
    """

    chips: int
    apart: int
    is_ring: bool


@dataclasses.dataclass(frozen=True)
class Group:
    """The devices along a dimension of a mesh, which exchange data with each other.

    Attributes:
      chip: the type of their chips.
      on_chip: how many of them are on one chip.
      sides: how they extend over the torus; empty if all are on one chip.
    """

    chip: Chip
    on_chip: int
    sides: tuple[Side, ...]

    @property
    def devices(self) -> int:
        """Their number."""
        return self.on_chip * math.prod(side.chips for side in self.sides)

    def all_reduce_seconds(self, sent: float) -> float:
        """Seconds in which arrays of `sent` bytes of each device are summed.

        In rings along all sides at once, each of which takes the share that its links allow.
        """
        if not self.sides:
            return self._on_chip_seconds(sent)
        links = sum((1 + side.is_ring) / side.apart for side in self.sides)
        shared = self.chip.devices / self.on_chip
        around = 2 * (self.devices - 1) / self.devices
        return around * sent * shared / (links * self.chip.link_bandwidth)

    def all_to_all_seconds(self, sent: float) -> float:
        """Seconds in which each device sends an equal part of `sent` bytes to each device.

        What crosses the middle of the longest side takes longest: half of what is sent, a quarter
        each way if the side is a ring.
        """
        if not self.sides:
            return self._on_chip_seconds(sent)
        of_chip = sent * self.chip.devices
        across = max(side.chips * side.apart / (8 if side.is_ring else 4) for side in self.sides)
        return across * of_chip / self.chip.link_bandwidth

    def _on_chip_seconds(self, sent: float) -> float:
        """Both devices read and write what they exchange in the chip's memory."""
        if self.on_chip == 1:
            return 0.0
        return 2 * sent / (self.chip.memory_bandwidth / self.chip.devices)


def groups(sizes: Sequence[int], on: Slice) -> list[Group]:
    """The group along each dimension of a mesh, whose last dimension has neighbouring devices.

    Args:
      sizes: sizes of the mesh's dimensions, in order.
      on: a slice of as many devices.
    """
    free, on_chip, found = [*on.sides], on.chip.devices, []
    for size in reversed(sizes):
        here = math.gcd(size, on_chip)
        size, on_chip = size // here, on_chip // here
        sides = []
        for axis, whole in enumerate(on.sides):
            chips, apart = math.gcd(size, free[axis]), whole // free[axis]
            size, free[axis] = size // chips, free[axis] // chips
            if chips > 1:
                sides.append(Side(chips, apart, chips * apart == whole and on.is_ring(whole)))
        if size > 1:
            # What divides no side is taken for a line.
            sides.append(Side(size, 1, False))
        found.append(Group(on.chip, here, tuple(sides)))
    return found[::-1]


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
