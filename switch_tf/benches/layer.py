"""`switch-tf bench layer`: the cost of a Switch layer by load skew and capacity.

All variants process the same tokens in turn, so that their ratios hold on a noisy machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf import storage
from switch_tf.benches import machine
from switch_tf.benches.timing import quartiles, times_in_turn
from switch_tf.checkpoints import run_facts
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.layers.context import collect, declare_only, step_seed
from switch_tf.layers.figures import Figures
from switch_tf.layers.measuring_router import UniformRouter, WorstCaseRouter, ZipfRouter
from switch_tf.layers.router import Router
from switch_tf.layers.routing import layer_figures
from switch_tf.layers.switch_layer import SwitchLayer
from switch_tf.metrics.tables import table
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.rules import Count, NonNegative, Path, configurable
from switch_tf.setup.mesh_model import ModelSetup

# Routers whose load does not depend on the tokens, by their names in the table.
SKEWS = {"uniform": UniformRouter, "zipf": ZipfRouter, "worst case": WorstCaseRouter}

_PRODUCT = "one large product"


@dataclasses.dataclass(frozen=True)
class LayerPass:
    """A timed forward and backward pass of a layer.

    Attributes:
      router: the router's name in the table.
      capacity: C, tokens per expert and group.
      run: runs the pass and returns `routing.layer_figures`.
    """

    router: str
    capacity: int
    run: Callable[[], dict]

    def cells(self, seconds: float, least: float, tokens: int) -> tuple[str, ...]:
        """The table row, given seconds and tokens of a pass, and the fastest variant's seconds."""
        figures = self.run()
        load_E = figures["load_E"]
        return (
            self.router,
            f"{self.capacity:,}",
            f"{1e3 * seconds:.1f}",
            f"{seconds / least:.2f}",
            f"{tokens / seconds:,.0f}",
            f"{100 * figures['dropped']:.1f}",
            f"{load_E.max() / load_E.mean():.2f}",
        )


HEADING = ("router", "capacity", "ms", "ratio", "tokens/s", "dropped, %", "max / mean load")


@configurable
def bench_layer(
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
    rounds: Count = 11,
    capacity_factors: Sequence[NonNegative] = (1.0, 1.25, 1.5, 2.0),
    output_path: Path | None = None,
) -> None:
    """Prints the time of a model's first Switch layer, forward and backward, and its drop rate.

    Args:
      data: makes the `TaskData`, whose batch size and input length give the layer's batch.
      setup: makes the `ModelSetup`.
      rounds: timings per row, taken in turn; the median is shown. More give steadier ratios and
        take proportionally longer; keep 11 unless ratios change between calls.
      capacity_factors: capacity factors at which the model's own router, untrained, is timed. A
        higher one drops fewer tokens but costs time and memory; the paper finds 1.0 to 1.25 best.
      output_path: file for the figures as JSON; None writes none.

    Raises:
      UserError: the model has no Switch layer, sizes are inconsistent, or the file cannot be
        written.
    """
    data, setup = data(), setup()
    if output_path is not None:
        storage.try_to_write(output_path)
    batch_size, length = data.batch_size, data.task_feature_lengths["inputs"]
    layer, d_model = _first_switch_layer(setup.model)
    with setup.mesh(data) as mesh:
        print(
            f"{layer.path}: {layer.num_experts} experts, d_model {d_model}, {layer.compute_dtype}; "
            f"forward and backward of {batch_size} x {length} tokens, {mesh.size} "
            f"device{'s' if mesh.size > 1 else ''}; median of {rounds} timings, taken in turn",
            flush=True,
        )
        x = np.random.default_rng(0).normal(size=(batch_size, length, d_model))
        x_BLM = mesh.pack(x.astype(np.float32), ("batch", None, None))
        passes = [_layer_pass(*variant, x_BLM) for variant in _variants(layer, capacity_factors)]
        product = machine.matrix_product(layer.compute_dtype)
        calls = {each.router: each.run for each in passes} | {_PRODUCT: product.call}
        taken = times_in_turn(calls, rounds)
        medians = [quartiles(taken[each.router])[1] for each in passes]
        tokens = batch_size * length
        rows = [p.cells(s, min(medians), tokens) for p, s in zip(passes, medians, strict=True)]
    print(*table([HEADING, *rows]), sep="\n")
    if output_path is not None:
        flops = machine.PASSES * batch_size * layer.flops(d_model, length)
        storage.write_json(output_path, _figures(taken, flops, product.amount))


def _figures(taken: Mapping[str, Sequence[float]], flops: float, product: float) -> dict:
    """Figures of each pass, with its share of the machine's rate of matrix products.

    Args:
      taken: seconds of each pass, and of the product.
      flops: FLOPs of a pass, without those of empty slots.
      product: FLOPs of the product.
    """
    rate = product / quartiles(taken[_PRODUCT])[1]
    found = {}
    for name in taken.keys() - {_PRODUCT}:
        lower, median, upper = quartiles(taken[name])
        found[name] = {"seconds": median, "lower_quartile": lower, "upper_quartile": upper}
        found[name]["share_of_matrix_product"] = flops / median / rate
    versions = run_facts.versions()
    return {"passes": found, "matrix_product_flops_per_second": rate, "versions": versions}


def _first_switch_layer(model: Callable[[], TransformerEncoderDecoder]) -> tuple[SwitchLayer, int]:
    """A model's first Switch layer, its weights unallocated, and d_model."""
    with declare_only():
        made = model()
        made.build()
    if not made.switch_layers:
        raise UserError("the model has no Switch layer: add --gin_file=models/switch_tiny.gin")
    return made.switch_layers[0], made.d_model


def _variants(layer: SwitchLayer, factors: Sequence[float]) -> Iterator[tuple[str, SwitchLayer]]:
    """Copies of a layer with a router of each skew, and with its own router at each capacity."""
    config = layer.get_config()
    # Drops the settings that only the model's own router has.
    common = Router.get_config(layer.router)
    for name, router in SKEWS.items():
        registered = keras.saving.get_registered_name(router)
        skewed = config | {"router": registered, "router_config": common}
        yield name, type(layer).from_config(skewed)
    for factor in factors:
        own = config["router_config"] | {"capacity_factor": factor, "absolute_capacity": None}
        name = f"{type(layer.router).__name__}, capacity factor {factor:g}"
        yield name, type(layer).from_config(config | {"router_config": own})


def _layer_pass(name: str, layer: SwitchLayer, x_BLM) -> LayerPass:
    """Builds and compiles a layer's pass, and runs it once."""
    layer.build((None, None, x_BLM.shape[-1]))
    _, group_size = layer.groups(*x_BLM.shape[:2])
    figures = Figures()

    @tf.function(autograph=False)
    def run(x_BLM):
        seed = tf.zeros([2], tf.int32)
        with tf.GradientTape() as tape, step_seed(seed), collect() as reports:
            x_BLM = tf.identity(x_BLM)
            tape.watch(x_BLM)
            # A projection has several outputs.
            outputs = tf.nest.flatten(layer(x_BLM, training=True))
            loss = reports[0].loss()
            for y_BLN in outputs:
                loss += tf.reduce_sum(tf.square(tf.cast(y_BLN, tf.float32)))
        variables = [variable.value for variable in layer.trainable_variables]
        gradients = tape.gradient(loss, [x_BLM, *variables])
        # Read together with the figures, so that a call ends only when the gradients are computed.
        largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(g)) for g in gradients]))
        reports[0].add_to(figures)
        figures.add("gradients", "max", {"largest": largest})
        return figures.pack()

    def call() -> dict:
        return layer_figures(figures.unpack(mesh_lib.to_numpy(run(x_BLM)))[layer.path])

    call()
    return LayerPass(name, layer.router.capacity(group_size, training=True), call)
