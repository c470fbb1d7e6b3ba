"""Each target with what was measured, as rows of tables."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from switch_tf.benches.performance.measurements import (
    BATCHES,
    DEVICES,
    DTYPES,
    EXPERTS,
    GROUP_SIZES,
    LAYERS,
)
from switch_tf.metrics.tables import size

Results = Mapping[str, Mapping]
Row = tuple[str, ...]
_ROUTING = ("router", "dispatch and combine")


@dataclasses.dataclass(frozen=True)
class Target:
    """A figure that is to reach a bound.

    Attributes:
      what: what is measured.
      found: the figure.
      bound: what it is to be at least or at most.
      is_most: whether the bound is an upper one.
      written: format of the two.
    """

    what: str
    found: float
    bound: float
    is_most: bool = False
    written: str = "{:.2f}"

    def row(self) -> Row:
        """The row of a table."""
        met = self.found <= self.bound if self.is_most else self.found >= self.bound
        least = "at most" if self.is_most else "at least"
        bound, found = self.written.format(self.bound), self.written.format(self.found)
        return self.what, f"{least} {bound}", found, "met" if met else "missed"


def _model(experts: int) -> str:
    return f"{experts} experts" if experts else "dense"


def targets(found: Results) -> Iterator[Target]:
    """All targets.

    Args:
      found: the results of `measurements.measure`.
    """
    yield from _against_the_machine(found)
    yield from _against_the_peer(found)
    yield from _against_dense(found)
    yield from _routing(found)
    for dtype in DTYPES:
        figures = found[f"layer_{dtype}"]["passes"]["SwitchRouter, capacity factor 1.25"]
        what = f"Switch layer of width 768, {dtype}: share of the matrix rate"
        yield Target(what, figures["share_of_matrix_product"], 0.8)
    one, eight = (found[f"devices_{n}"]["step_seconds"] for n in (1, 8))
    yield Target("8 devices on the cores: step over that of one device", eight / one, 1.15, True)
    peak = found["switch_base"]["peak_bytes"] / 1e9
    yield Target("Switch-Base with 8 experts: peak memory, GB", peak, 12.0, True, "{:.1f}")
    for devices, bound in ((1, 15.0), (8, 30.0)):
        seconds = found[f"devices_{devices}"]["seconds_from_command_to_first_step"]
        what = f"command to the end of the first step, {devices} device{'s' * (devices > 1)}, s"
        yield Target(what, seconds, bound, True, "{:.1f}")
    yield Target("--help, s", found["help"]["seconds"], 1.0, True)


def _against_the_machine(found: Results) -> Iterator[Target]:
    for dtype, usual, many in (("float32", 0.9, 0.8), ("bfloat16", 0.75, 0.7)):
        for experts in EXPERTS:
            share = found[f"train_{experts}_{dtype}"]["share_of_roofline"]
            bound = many if experts == 128 else usual
            yield Target(f"{_model(experts)}, {dtype}: share of the roofline", share, bound)


def _against_the_peer(found: Results) -> Iterator[Target]:
    for dtype in DTYPES:
        for experts in (0, 8, 128):
            figures = found[f"train_{experts}_{dtype}"]
            much = experts == 128 or (experts, dtype) == (8, "bfloat16")
            what = f"{_model(experts)}, {dtype}: as fast as Hugging Face, times"
            yield Target(what, figures["times_as_fast_as_peer"], 1.8 if much else 1.0)
            ratio = figures["peak_bytes"] / figures["peer_peak_bytes"]
            what = f"{_model(experts)}, {dtype}: peak memory over Hugging Face's"
            yield Target(what, ratio, 1.0, True)
    what = "8 experts, float32, greedy decoding: as fast as Hugging Face, times"
    yield Target(what, found["decode_8"]["times_as_fast_as_peer"], 1.0)


def _against_dense(found: Results) -> Iterator[Target]:
    for dtype in DTYPES:
        for experts, bound in ((8, 0.9), (128, 0.6)):
            dense, sparse = (found[f"train_{n}_{dtype}"]["step_seconds"] for n in (0, experts))
            what = f"{_model(experts)}, {dtype}: examples/s over those of dense"
            yield Target(what, dense / sparse, bound)
    dense, sparse = (found[f"tiny_{m}"]["step_seconds"] for m in ("dense", "switch"))
    what = "switch_tiny on eight devices: examples/s over those of dense"
    yield Target(what, dense / sparse, 0.9)


def _routing(found: Results) -> Iterator[Target]:
    for experts, group_size in itertools.product((8, 128), GROUP_SIZES):
        parts = found[f"groups_{experts}_{group_size}"]["part_seconds"]
        own = sum(_share(parts, part) for part in _ROUTING)
        what = f"{experts} experts, groups of {group_size}: share of router, dispatch and combine"
        yield Target(what, own, 0.08, True, "{:.3f}")


def step_rows(found: Results) -> Iterator[Row]:
    """A table of the steps: ours, the peer's and the roofline."""
    yield ("model", "dtype", "step, ms (quartiles)", "tokens/s", "Hugging Face, tokens/s") + (
        "roofline, ms",
        "peak memory",
        "Hugging Face's",
    )
    for dtype in DTYPES:
        for experts in EXPERTS:
            f = found[f"train_{experts}_{dtype}"]
            low, high = (f[f"step_seconds_{which}_quartile"] for which in ("lower", "upper"))
            step = f"{1e3 * f['step_seconds']:,.0f} ({1e3 * low:,.0f} to {1e3 * high:,.0f})"
            peer = "peer_step_seconds" in f
            yield (
                _model(experts),
                dtype,
                step,
                f"{f['tokens_per_second']:,.0f}",
                f"{f['peer_tokens_per_second']:,.0f}" if peer else "",
                f"{1e3 * f['roofline_seconds']:,.0f}",
                size(f["peak_bytes"]),
                size(f["peer_peak_bytes"]) if peer else "",
            )


def part_rows(found: Results) -> Iterator[Row]:
    """A table of what the parts of a step take, in percent of it."""
    names = [f"train_{experts}_{dtype}" for dtype in DTYPES for experts in EXPERTS]
    yield "part, %", *(f"{_model(e)}, {d}" for d in DTYPES for e in EXPERTS)
    parts = dict.fromkeys(p.rsplit(" ", 1)[0] for n in names for p in found[n]["part_seconds"])
    for part in parts:
        shares = (_share(found[name]["part_seconds"], part) for name in names)
        yield part, *(f"{100 * share:.1f}" for share in shares)


def _share(parts: Mapping[str, float], part: str) -> float:
    own = sum(s for name, s in parts.items() if name.rsplit(" ", 1)[0] == part)
    return own / sum(parts.values())


def scale_rows(found: Results) -> Iterator[Row]:
    """A table of how a step grows, with the exponent n of step ~ size^n."""
    yield "what grows", "sizes", "step, ms", "exponent"
    curves = {
        "experts": {n: f"train_{n}_float32" for n in EXPERTS if n},
        "layers of encoder and of decoder": {n: f"layers_{n}" for n in LAYERS},
        "sequences in a batch": {n: f"batch_{n}" for n in BATCHES},
        "devices on the same cores": {n: f"devices_{n}" for n in DEVICES},
    }
    for what, names in curves.items():
        steps = {n: found[name]["step_seconds"] for n, name in names.items()}
        shown = ", ".join(f"{1e3 * step:,.0f}" for step in steps.values())
        exponent = slope([math.log(n) for n in steps], [math.log(s) for s in steps.values()])
        yield what, ", ".join(map(str, steps)), shown, f"{exponent:.2f}"


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of the line of least squares.

    >>> slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    2.0
    """
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum(
        (a - x) ** 2 for a in xs
    )
