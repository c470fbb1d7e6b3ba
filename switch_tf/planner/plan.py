"""`switch-tf plan`: prints what a configuration needs and communicates."""

import collections
import functools
import math
import os
import re
from collections.abc import Callable, Iterator

import gin
import numpy as np

from switch_tf.data.batch_shape import check_parts
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.metrics.tables import size, table
from switch_tf.planner import estimate, lowered, ranking
from switch_tf.planner.counts import Counts, parts
from switch_tf.planner.dtypes import stage_dtypes
from switch_tf.planner.memory import bytes_of_steps, peak_bytes
from switch_tf.planner.parts import StepSizes
from switch_tf.planner.slices import Slice
from switch_tf.rules import configurable, matches
from switch_tf.setup.describe import switch_layers
from switch_tf.setup.mesh_model import ModelSetup
from switch_tf.stages import telling
from switch_tf.training.step import TrainStep

_SHOWN_WEIGHTS = 8
# Of a run whose gin files do not say: those of the paper's Table 1.
STEPS = 100_000


@configurable(denylist=["collectives", "dtypes", "memory", "on", "ranks", "steps"])
def plan(
    collectives: bool = False,
    dtypes: bool = False,
    memory: bool = False,
    on: Slice | None = None,
    ranks: bool = False,
    steps: int = STEPS,
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
) -> None:
    """Prints parameters, FLOPs, bytes and Switch layers from shapes alone, and optional details.

    Args:
      collectives: whether to compile a training step and list its collectives.
      dtypes: whether to compile a training step and list the precision of each stage of its Switch
        layers.
      memory: whether to run training steps and report the memory they take.
      on: the slice of TPUs on which to plan a training step; None for none.
      ranks: whether to list the meshes and layouts that fit it, in place of planning the given one.
      steps: steps of the run on it.
      data: makes the `TaskData`, of which only lengths and batch size matter.
      setup: makes the `ModelSetup`, whose mesh needs no devices unless a step is compiled or run.

    Raises:
      UserError: sizes are inconsistent, or a step does not fit on the slice or on this machine.
    """
    data, setup = data(), setup()
    on_paper = setup.mesh_on_paper(data)
    parts_of_batch = gin.get_bindings("TrainStep").get("microbatches", 1)
    check_parts(data.batch_size, parts_of_batch, on_paper.ways("batch"))
    counts = Counts.of(setup.model)
    lines = [
        *_counted(counts, setup.optimizer(), on_paper, data.task_feature_lengths),
        *switch_layers(counts.model, data, on_paper, parts_of_batch),
    ]
    print(*lines, sep="\n")
    if on is not None:
        step = paper_step(counts, data, setup.optimizer(), on_paper)
        print()
        _plan_on(step, on, ranks, steps)
    if collectives or dtypes or memory:
        _check_memory(counts)
        _take_steps(data, setup, collectives, dtypes, memory)


def _take_steps(
    data: TaskData, setup: ModelSetup, collectives: bool, dtypes: bool, memory: bool
) -> None:
    """Compiles or takes training steps on this machine, and prints what `plan` is asked for."""
    with setup.mesh(data) as mesh:
        make_step, features = training_step(setup.model(), setup.optimizer(), mesh, data)
        # Measured first, because the peak never goes down.
        if memory:
            with telling("taking two steps"):
                taken = bytes_of_steps(make_step, features)
            print(
                f"\nmemory: training steps raised this process's peak by {size(taken)}, to "
                f"{size(peak_bytes())}"
            )
        if collectives or dtypes:
            with telling("compiling a step"):
                lowered_step = lowered.LoweredStep.of(make_step(), features)
        if dtypes:
            print("\nprecision of the Switch layers in the lowered step, by stage")
            stages = stage_dtypes(lowered.definition(lowered_step.texts[0]))
            print(*dtype_table(stages), sep="\n")
        if collectives:
            print("\ncollectives of a training step; bytes are those that each device sends")
            print(*collective_table(lowered_step.collectives()), sep="\n")


def paper_step(counts: Counts, data: TaskData, optimizer, mesh) -> estimate.PaperStep:
    """The training step of the gin configuration in force, on a TPU.

    Args:
      counts: its model, counted.
      data: gives the lengths and the batch size.
      optimizer: an optimizer, which need not be built.
      mesh: a mesh on paper.
    """
    of_step, model = gin.get_bindings("TrainStep"), counts.model
    frozen = of_step.get("frozen", ())
    gathers = "Gather" in str(gin.get_bindings("SwitchLayer").get("dispatcher"))
    sizes = StepSizes(model, data, mesh, of_step.get("microbatches", 1), one_hot=not gathers)
    return estimate.PaperStep(
        sizes, counts, optimizer, lambda path: not matches(path, frozen), model.rematerialize
    )


def _plan_on(step: estimate.PaperStep, on: Slice, ranks: bool, steps: int) -> None:
    """Prints what a step takes on a slice, or which meshes and layouts fit it.

    Raises:
      UserError: the step does not fit, or no mesh and layout does.
    """
    if not ranks:
        found = estimate.Estimate(step, on)
        print(*estimate.lines(found, steps), sep="\n")
        estimate.check_fits(found)
        return
    found = ranking.rank(step, on)
    if not found.choices:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
        raise UserError(
            f"no mesh and layout of {on.name} fits ({reasons}): take a larger slice, or a "
            "BATCH_SIZE that its devices divide"
        )
    print(on.describe(), *ranking.lines(found, steps), sep="\n")


def _check_memory(counts: Counts) -> None:
    """Checks that this machine's memory holds the weights, their gradients and an update.

    Raises:
      UserError: it does not.
    """
    needed = 3 * 4 * counts.parameters
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"a step of this model needs more than {needed / 1e9:,.0f} GB, but this machine has "
            f"{there / 1e9:,.0f} GB: leave out --collectives, --dtypes and --memory, or lower "
            "TransformerEncoderDecoder.num_layers and NUM_EXPERTS"
        )


def training_step(model, optimizer, mesh, data: TaskData):
    """Builds a model and optimizer, and random tokens to train them on.

    Args:
      model: an unbuilt `TransformerEncoderDecoder`.
      optimizer: an unbuilt optimizer.
      mesh: the mesh in use.
      data: gives the lengths and the batch size.

    Returns:
      A function that makes a `TrainStep`, and a batch of features on the mesh.
    """
    model.build()
    optimizer.build(model.trainable_variables)
    make_step = functools.partial(TrainStep, model, optimizer, mesh, seed=0)
    random = np.random.default_rng(0)
    batch_size, lengths = data.batch_size, data.task_feature_lengths
    shapes = {
        "encoder_input_tokens": lengths["inputs"],
        "decoder_input_tokens": lengths["targets"],
        "decoder_target_tokens": lengths["targets"],
    }
    arrays = {
        name: random.integers(3, model.vocab_size, (batch_size, length)).astype(np.int32)
        for name, length in shapes.items()
    }
    arrays["decoder_loss_weights"] = np.ones((batch_size, lengths["targets"]), np.float32)
    return make_step, {name: mesh.pack(value, ("batch", None)) for name, value in arrays.items()}


def _counted(counts: Counts, optimizer, mesh, lengths) -> Iterator[str]:
    flops = counts.flops(lengths)
    yield (f"parameters: {counts.parameters:,}, of which {counts.expert_parameters:,} in experts")
    yield (
        f"forward FLOPs: {flops:.4g} per sequence of {lengths['inputs']} + {lengths['targets']} "
        "tokens"
    )
    yield (
        f"on each of {mesh.size} devices: weights {size(counts.weight_bytes(mesh))}, optimizer "
        f"slots {size(counts.slot_bytes(mesh, optimizer))}"
    )
    # Those of layers that differ only in their number are a row.
    alike = collections.Counter(
        (re.sub(r"\d+", "*", weight.path), tuple(weight.axes), tuple(weight.shape))
        for weight in counts.weights
    )
    rows = [("largest weights", "count", "axes", "shape of each", "split into")]
    for path, axes, shape in sorted(alike, key=lambda key: -math.prod(key[2]))[:_SHOWN_WEIGHTS]:
        names = " ".join(axis or "-" for axis in axes)
        count = alike[path, axes, shape]
        rows.append((path, count, names, "x".join(map(str, shape)), parts(axes, mesh)))
    yield from table(rows)


def dtype_table(stages) -> Iterator[str]:
    """The lines of a table of `dtypes.stage_dtypes`."""
    rows = [("stage", "forward", "backward")]
    for stage, dtypes in stages.items():
        rows.append((stage, " ".join(dtypes.forward) or "-", " ".join(dtypes.backward) or "-"))
    return table(rows)


def collective_table(found: list[lowered.Collective]) -> Iterator[str]:
    """The lines of a table of the collectives, grouping equal ones."""
    rows = [("collective", "dtype", "elements", "devices", "count", "bytes")]
    rows += lowered.rows(found)
    rows.append(("total", "", "", "", len(found), size(sum(one.bytes for one in found))))
    return table(rows)
