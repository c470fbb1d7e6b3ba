"""`switch-tf bench train`: a training step against the limits of the machine.

The step, a matrix product and a sum in place are timed in turn, so that their ratios hold on a
noisy machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from switch_tf import runtime, storage
from switch_tf.benches import machine
from switch_tf.benches.breakdown import PARTS, WAYS, part_seconds
from switch_tf.benches.peer import Peer, peer, peer_figures, peer_lines, sizes, versions
from switch_tf.benches.timing import quartile_figures, times_in_turn
from switch_tf.data.task_data import TaskData
from switch_tf.metrics.tables import size, table
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder, parameter_count
from switch_tf.planner.memory import peak_bytes
from switch_tf.planner.plan import training_step
from switch_tf.rules import Count, Path, configurable
from switch_tf.setup.mesh_model import ModelSetup
from switch_tf.stages import telling

# An update reads the gradient twice, the first time for its mean squares, reads the weight and
# writes it.
_UPDATE_BYTES = 4 * 4
# Steps after the first that are not timed, since they are sometimes slower than later ones.
_WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The time below which a step cannot go: that of its matrix products, then of its update.

    Attributes:
      flops: FLOPs of the step's matrix products.
      bytes: bytes that its update moves.
      flops_per_second: the machine's rate of matrix products in the step's dtype.
      bytes_per_second: the machine's rate of moving memory.
    """

    flops: float
    bytes: float
    flops_per_second: float
    bytes_per_second: float

    @property
    def seconds(self) -> float:
        """Seconds of a step at both rates."""
        return self.flops / self.flops_per_second + self.bytes / self.bytes_per_second


@configurable(denylist=["breakdown", "against"])
def bench_train(
    breakdown: bool = False,
    against: str | None = None,
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
    rounds: Count = 11,
    output_path: Path | None = None,
) -> None:
    """Prints the time of a training step, and its share of what this machine can do.

    Args:
      breakdown: whether to profile as many steps again, and print what each part of them takes.
      against: name of a peer, whose steps are timed in turn; see `peer.peer`.
      data: makes the `TaskData`, of which only lengths and batch size matter.
      setup: makes the `ModelSetup`.
      rounds: number of timed steps. More give a steadier median and take proportionally longer;
        keep 11 unless shares change between calls.
      output_path: file for the figures as JSON; None writes none.

    Raises:
      UserError: sizes are inconsistent, the file cannot be written, or the peer cannot run.
    """
    data, setup = data(), setup()
    if output_path is not None:
        storage.try_to_write(output_path)
    with setup.mesh(data) as mesh:
        model = setup.model()
        make_step, features = training_step(model, setup.optimizer(), mesh, data)
        step, numbers = make_step(), itertools.count()

        def advance() -> None:
            step(features, next(numbers))

        with telling("compiling the first step"):
            figures = _warm_up(advance)
        with telling("timing steps"), contextlib.ExitStack() as stack:
            other = against and stack.enter_context(peer(against, sizes(model, data)))
            taken, rates = _in_turn(advance, model.compute_dtype, rounds, other)
            figures |= peer_figures(taken, _tokens(data), other)
        with telling("profiling steps") if breakdown else contextlib.nullcontext():
            parts = part_seconds(advance, rounds) if breakdown else {}
    figures = step_figures(taken["step"], _roofline(model, data, rates), _tokens(data)) | figures
    runtime.tell(_heading(data, model.compute_dtype, mesh.size, rounds), *lines(figures))
    if other:
        runtime.tell("", f"in turn with {other}:", *peer_lines(figures))
    if parts:
        runtime.tell("", f"parts of {rounds} further steps, profiled:", *part_lines(parts))
    if output_path is not None:
        by_name = {f"{part} {way}": seconds for (part, way), seconds in parts.items()}
        facts = {"part_seconds": by_name, "versions": versions(other)}
        storage.write_json(output_path, figures | facts)


def _warm_up(advance: Callable[[], None]) -> dict[str, float]:
    """Takes the steps that are not timed; returns figures of the first, and the peak of memory."""
    start = time.perf_counter()
    advance()
    first, since_start = time.perf_counter() - start, machine.seconds_since_start()
    for _ in range(_WARM_UP):
        advance()
    return {
        "first_step_seconds": first,
        "seconds_from_command_to_first_step": since_start,
        # Before the machine's own rates, whose arrays are large.
        "peak_bytes": peak_bytes(),
    }


def _in_turn(
    advance: Callable[[], None], dtype: str, rounds: int, other: Peer | None
) -> tuple[dict[str, list[float]], tuple[float, float]]:
    """Seconds of each step, and the machine's FLOPs and bytes per second in the same rounds."""
    product, addition = machine.matrix_product(dtype), machine.addition_in_place()
    calls = {"step": advance, "product": product.call, "addition": addition.call}
    if other:
        calls["peer"] = other.call
    taken = times_in_turn(calls, rounds)
    rates = (
        work.amount / statistics.median(taken[name])
        for name, work in (("product", product), ("addition", addition))
    )
    return taken, tuple(rates)


def _roofline(
    model: TransformerEncoderDecoder, data: TaskData, rates: tuple[float, float]
) -> Roofline:
    lengths = data.task_feature_lengths
    flops = model.flops(lengths["inputs"], lengths["targets"])
    parameters = parameter_count(model)
    return Roofline(machine.PASSES * data.batch_size * flops, _UPDATE_BYTES * parameters, *rates)


def _tokens(data: TaskData) -> int:
    return data.batch_size * sum(data.task_feature_lengths[n] for n in ("inputs", "targets"))


def _heading(data: TaskData, dtype: str, devices: int, rounds: int) -> str:
    lengths = data.task_feature_lengths
    return (
        f"a training step of {data.batch_size} x ({lengths['inputs']} + {lengths['targets']}) "
        f"tokens, {dtype}, {devices} device{'s' * (devices > 1)} on "
        f"{len(os.sched_getaffinity(0))} cores; {rounds} steps, in turn with the machine's rates"
    )


def step_figures(taken: Sequence[float], roofline: Roofline, tokens: int) -> dict[str, float]:
    """Figures of a step, by name with unit.

    Args:
      taken: seconds of each timed step.
      roofline: the step's.
      tokens: positions of a batch, including padding.
    """
    found = quartile_figures("step", taken)
    median = found["step_seconds"]
    return found | {
        "tokens_per_second": tokens / median,
        "flops_per_second": roofline.flops / median,
        "matrix_product_flops_per_second": roofline.flops_per_second,
        "share_of_matrix_product": roofline.flops / median / roofline.flops_per_second,
        "bytes_per_second": roofline.bytes_per_second,
        "roofline_seconds": roofline.seconds,
        "share_of_roofline": roofline.seconds / median,
    }


def lines(figures: Mapping[str, float]) -> Iterator[str]:
    """The lines of a table of all figures."""
    ms = {name: f"{1e3 * value:,.1f}" for name, value in figures.items()}
    giga = {name: f"{1e-9 * value:,.1f}" for name, value in figures.items()}
    quartiles = f"{ms['step_seconds_lower_quartile']} to {ms['step_seconds_upper_quartile']}"
    yield from table(
        [
            ("step, ms (quartiles)", f"{ms['step_seconds']} ({quartiles})"),
            ("tokens/s", f"{figures['tokens_per_second']:,.0f}"),
            ("matrix products of the step, GFLOP/s", giga["flops_per_second"]),
            ("one large product, GFLOP/s", giga["matrix_product_flops_per_second"]),
            ("share of it", f"{figures['share_of_matrix_product']:.2f}"),
            ("one large sum in place, GB/s", giga["bytes_per_second"]),
            ("roofline, ms", ms["roofline_seconds"]),
            ("share of the roofline", f"{figures['share_of_roofline']:.2f}"),
            ("peak memory of the process", size(figures["peak_bytes"])),
            ("first step, compiled, s", f"{figures['first_step_seconds']:.1f}"),
            (
                "from the command to its end, s",
                f"{figures['seconds_from_command_to_first_step']:.1f}",
            ),
        ]
    )


def part_lines(parts: Mapping[tuple[str, str], float]) -> Iterator[str]:
    """The lines of a table of `part_seconds`."""
    whole = sum(parts.values())
    rows = [("part", "forward, ms", "backward, ms", "share, %")]
    for part in PARTS:
        ways = [parts.get((part, way), 0.0) for way in WAYS]
        if any(ways):
            cells = (f"{1e3 * seconds:,.1f}" if seconds else "" for seconds in ways)
            rows.append((part, *cells, f"{100 * sum(ways) / whole:.1f}"))
    sums = (sum(s for (_, w), s in parts.items() if w == way) for way in WAYS)
    rows.append(("all", *(f"{1e3 * seconds:,.1f}" for seconds in sums), "100.0"))
    return table(rows)
