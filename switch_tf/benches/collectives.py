"""`switch-tf bench collectives`: what devices take to exchange data, by kind and size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf import runtime, storage
from switch_tf.benches.timing import quartile_figures, times_in_turn
from switch_tf.checkpoints import run_facts
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.metrics.tables import size, table
from switch_tf.rules import Count, Path, configurable
from switch_tf.setup.mesh_model import ModelSetup
from switch_tf.stages import telling

_BYTES = 4


@configurable
def bench_collectives(
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
    rounds: Count = 11,
    sizes: Sequence[Count] = (1 << 14, 1 << 18, 1 << 22),
    output_path: Path | None = None,
) -> None:
    """Prints the time of each collective along each dimension of the mesh, at several sizes.

    With `switch-tf plan --collectives`, which says what a step sends, it shows what that takes.

    Args:
      data: makes the `TaskData`, which the mesh must fit.
      setup: makes the `ModelSetup`, of which only the mesh matters.
      rounds: timings per row, taken in turn; the median and the quartiles are shown. More give
        steadier figures and take proportionally longer.
      sizes: float32 elements that each device sends. Small ones show what a collective costs by
        itself, large ones the rate; the default goes from 64 kB to 17 MB.
      output_path: file for the figures as JSON; None writes none.

    Raises:
      UserError: no dimension of the mesh has several devices, a size cannot be divided by them, or
        the file cannot be written.
    """
    data, setup = data(), setup()
    if output_path is not None:
        storage.try_to_write(output_path)
    with setup.mesh(data) as mesh:
        several = {name: count for name, count in mesh.shape.items() if count > 1}
        if not several:
            raise UserError(
                "one device exchanges nothing: add a layout, such as "
                "--gin_file=layouts/expert_data.gin"
            )
        with telling("compiling"):
            calls = {
                (dimension, kind, elements): _call(mesh, dimension, make, elements)
                for dimension in several
                for kind, make in KINDS.items()
                for elements in sizes
            }
        with telling("timing collectives"):
            taken = times_in_turn(calls, rounds)
        found = [
            _figures(dimension, several[dimension], kind, elements, seconds)
            for (dimension, kind, elements), seconds in taken.items()
        ]
    cores = len(os.sched_getaffinity(0))
    runtime.tell(
        f"float32 on {mesh.size} {runtime.device_type()} devices, {cores} cores; median and "
        f"quartiles of {rounds} timings, taken in turn",
        *lines(found),
    )
    if output_path is not None:
        storage.write_json(output_path, {"collectives": found, "versions": run_facts.versions()})


def all_reduce(mesh: mesh_lib.Mesh, dimension: str, elements: int) -> tuple[Callable, Any]:
    """A function that sums an array of each device along a mesh dimension, and its argument."""
    x_NX = _sharded(mesh, dimension, (mesh.shape[dimension], elements), axis=0)
    return lambda x_NX: tf.reduce_sum(x_NX, axis=0), x_NX


def all_gather(mesh: mesh_lib.Mesh, dimension: str, elements: int) -> tuple[Callable, Any]:
    """A function that gives each device the arrays of all along a dimension, and its argument.

    On CPU, DTensor makes an all-reduce of it, which sends the whole instead of a device's array.
    """
    x_NX = _sharded(mesh, dimension, (mesh.shape[dimension], elements), axis=0)
    replicated = dtensor.Layout.replicated(mesh.dtensor_mesh, 2)
    return lambda x_NX: dtensor.relayout(x_NX, replicated), x_NX


def all_to_all(mesh: mesh_lib.Mesh, dimension: str, elements: int) -> tuple[Callable, Any]:
    """A function that shards another axis along a mesh dimension, and its argument."""
    x_NX = _sharded(mesh, dimension, (mesh.shape[dimension], elements), axis=0)
    other = dtensor.Layout([dtensor.UNSHARDED, dimension], mesh.dtensor_mesh)
    return lambda x_NX: dtensor.relayout(x_NX, other), x_NX


# Of each, a device has an array of the given elements, which it sends.
KINDS = {"all-reduce": all_reduce, "all-gather": all_gather, "all-to-all": all_to_all}


def _sharded(mesh: mesh_lib.Mesh, dimension: str, shape: Sequence[int], axis: int):
    specs = [dimension if i == axis else dtensor.UNSHARDED for i in range(len(shape))]
    layout = dtensor.Layout(specs, mesh.dtensor_mesh)
    return dtensor.call_with_layout(tf.ones, layout, shape)


def _call(mesh: mesh_lib.Mesh, dimension: str, make: Callable, elements: int) -> Callable:
    """A call of a collective, called before, that returns when all devices are done."""
    devices = mesh.shape[dimension]
    if elements % devices:
        raise UserError(
            f"bench_collectives.sizes: {elements} elements are not divisible by the {devices} "
            f"devices of mesh dimension '{dimension}': use powers of two"
        )
    function, argument = make(mesh, dimension, elements)
    compiled = tf.function(function, autograph=False)

    def call() -> None:
        parts = dtensor.unpack(compiled(argument))
        with mesh_lib.host():
            for part in parts:
                np.asarray(tf.reshape(part, [-1])[0])

    call()
    return call


def _figures(
    dimension: str, devices: int, kind: str, elements: int, seconds: Sequence[float]
) -> dict[str, Any]:
    found = quartile_figures("collective", seconds)
    sent = _BYTES * elements
    return {
        "kind": kind,
        "mesh_dimension": dimension,
        "devices": devices,
        "bytes_per_device": sent,
        **found,
        "bytes_per_second_per_device": sent / found["collective_seconds"],
    }


def lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a table of the figures of each collective."""
    rows = [("collective", "along", "devices", "each sends", "ms (quartiles)", "GB/s a device")]
    for one in found:
        ms = (
            1e3 * one[f"collective_seconds{which}"]
            for which in ("", "_lower_quartile", "_upper_quartile")
        )
        rows.append(
            (
                one["kind"],
                one["mesh_dimension"],
                str(one["devices"]),
                size(one["bytes_per_device"]),
                "{:.2f} ({:.2f} to {:.2f})".format(*ms),
                f"{1e-9 * one['bytes_per_second_per_device']:.2f}",
            )
        )
    return table(rows)
