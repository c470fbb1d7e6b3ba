"""Meshes and layouts that fit a slice, the fastest first, on paper."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from switch_tf import gin_files
from switch_tf.errors import UserError
from switch_tf.mesh import Mesh, check_divides
from switch_tf.metrics.tables import size, table
from switch_tf.planner.estimate import Estimate, PaperStep
from switch_tf.planner.slices import Slice

LAYOUTS = ("data", "expert_data", "model_data", "expert_model_data", "model")
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Choice:
    """A mesh and layout that fit.

    Attributes:
      layout: the name of its file in gin/layouts.
      mesh_shape: MESH_SHAPE.
      estimate: what a step takes, with the fewest micro-batches that fit.
    """

    layout: str
    mesh_shape: str
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The meshes and layouts of a slice.

    Attributes:
      choices: those that fit, the fastest first.
      left_out: reason -> number of those that were left out for it.
    """

    choices: list[Choice]
    left_out: Counter


def rank(step: PaperStep, on: Slice, layouts: Sequence[str] = LAYOUTS) -> Ranking:
    """Plans each mesh and layout of a slice.

    Of each, activations are made again or not, and a batch is divided into parts, whichever is
    faster of what fits. Groups are formed for the mesh (GROUPS_MULTIPLE).

    Args:
      step: the model, its data and its optimizer; its own mesh does not matter.
      on: the slice.
      layouts: the layouts to plan.
    """
    choices, left_out = [], Counter()
    for layout, mesh_shape, rules in _candidates(on.devices, layouts):
        try:
            found = plan_mesh(step, mesh_shape, rules, on)
        except UserError:
            left_out["whose sizes do not divide"] += 1
            continue
        if found is None:
            left_out["that do not fit"] += 1
        else:
            choices.append(Choice(layout, mesh_shape, found))
    choices.sort(key=lambda choice: choice.estimate.seconds)
    return Ranking(choices, left_out)


def plan_mesh(step: PaperStep, mesh_shape: str, rules: str, on: Slice) -> Estimate | None:
    """The fastest estimate of a mesh and layout that fits; None if none fits; see `rank`.

    Raises:
      UserError: sizes do not divide.
    """
    mesh = Mesh.on_paper(mesh_shape, rules)
    _check(step, mesh)
    with grouped_for(step, mesh):
        return _fastest(step, mesh, on)


def rules_of(layout: str) -> str:
    """LAYOUT_RULES of a file of gin/layouts."""
    return gin_files.read([f"layouts/{layout}.gin"]).macros["LAYOUT_RULES"].value


def _candidates(devices: int, layouts: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Names of layouts, with each mesh of so many devices, and the layout's rules."""
    for layout in layouts:
        rules = rules_of(layout)
        has_batch, has_model = "batch:batch" in rules, ":model" in rules
        if has_batch and has_model:
            for model in _divisors(devices)[1:-1]:
                yield layout, f"batch:{devices // model},model:{model}", rules
        else:
            yield layout, f"{'batch' if has_batch else 'model'}:{devices}", rules


def _check(step: PaperStep, mesh: Mesh) -> None:
    model, data = step.sizes.model, step.sizes.data
    data.check_batch(mesh)
    sizes = {
        "heads": (model.num_heads, "num_heads"),
        "d_ff": (model.d_ff, "d_ff"),
        "vocab": (model.vocab_size, "VOCAB_SIZE"),
    }
    for layer in model.switch_layers:
        check_divides(mesh.rules, mesh.shape, {"experts": (layer.num_experts, "NUM_EXPERTS")})
    check_divides(mesh.rules, mesh.shape, sizes)


@contextlib.contextmanager
def grouped_for(step: PaperStep, mesh: Mesh) -> Iterator[None]:
    """Context in which Switch layers form groups that the mesh divides."""
    layers = step.sizes.model.switch_layers
    before = [layer.groups_multiple for layer in layers]
    for layer in layers:
        layer.groups_multiple = math.lcm(layer.groups_multiple, mesh.ways("batch"))
    try:
        yield
    finally:
        for layer, multiple in zip(layers, before, strict=True):
            layer.groups_multiple = multiple


def _fastest(step: PaperStep, mesh: Mesh, on: Slice) -> Estimate | None:
    """The fastest estimate that fits; of each kind, that with the fewest parts of a batch."""
    rows = step.sizes.data.batch_size // mesh.ways("batch")
    found = []
    for again in (False, True):
        for parts in _divisors(rows):
            sizes = dataclasses.replace(step.sizes, mesh=mesh, microbatches=parts)
            estimate = Estimate(dataclasses.replace(step, sizes=sizes, rematerialize=again), on)
            if estimate.fits:
                # Taken now, while groups are those of the mesh.
                found.append((estimate.seconds, len(found), estimate))
                break
    return min(found)[2] if found else None


def _divisors(number: int) -> list[int]:
    """The divisors of a number, ascending."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def rows(ranking: Ranking, steps: int) -> Iterator[tuple]:
    """The rows of a table of a ranking.

    Args:
      ranking: what to show.
      steps: steps of the run.
    """
    yield (
        *("layout", "MESH_SHAPE", "parts", "made again", "each device", "s a step", "examples/s"),
        *(f"chip-hours of {steps:,} steps", "dollars"),
    )
    for choice in ranking.choices[:_SHOWN]:
        estimate = choice.estimate
        yield (
            choice.layout,
            choice.mesh_shape,
            estimate.step.sizes.microbatches,
            "yes" if estimate.step.rematerialize else "no",
            size(estimate.needed),
            f"{estimate.seconds:.3g}",
            f"{estimate.examples_per_second:,.0f}",
            f"{estimate.chip_hours(steps):,.0f}",
            f"{estimate.dollars(steps):,.0f}",
        )


def lines(ranking: Ranking, steps: int) -> Iterator[str]:
    """The lines of a ranking; see `rows`."""
    yield from table(rows(ranking, steps))
    if len(ranking.choices) > _SHOWN:
        yield f"and {len(ranking.choices) - _SHOWN} slower ones"
    if ranking.left_out:
        told = (f"{count} {reason}" for reason, count in ranking.left_out.items())
        yield f"left out: {', '.join(told)}"
    yield (
        "parts: TrainStep.microbatches; made again: TransformerEncoderDecoder.rematerialize; set "
        "GROUPS_MULTIPLE to a multiple of the size of 'batch'"
    )
