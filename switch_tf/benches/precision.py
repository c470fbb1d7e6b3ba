"""`switch-tf bench precision`: the cost of the float32 parts of a bfloat16 training step."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

from switch_tf import storage
from switch_tf.benches.timing import quartile_figures, quartiles, times_in_turn
from switch_tf.checkpoints import run_facts
from switch_tf.data.task_data import TaskData
from switch_tf.metrics.tables import table
from switch_tf.planner.plan import training_step
from switch_tf.rules import Count, Path, configurable
from switch_tf.setup.mesh_model import ModelSetup
from switch_tf.training.step import TrainStep

HEADING = ("in bfloat16", "ms per step", "ratio")


@configurable
def bench_precision(
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
    rounds: Count = 11,
    output_path: Path | None = None,
) -> None:
    """Prints the time of a training step with and without each float32 part.

    The parts are attention's logits and softmax, the output logits, and the router. Steps that
    differ in one part train the same model in turn, so ratios hold on a noisy machine.

    Args:
      data: makes the `TaskData`, of which only lengths and batch size matter.
      setup: makes the `ModelSetup`, whose model computes in bfloat16 here regardless of DTYPE.
      rounds: timings per row, taken in turn; the median is shown. More give steadier ratios and
        take proportionally longer; keep 11 unless ratios change between calls.
      output_path: file for the figures as JSON; None writes none.

    Raises:
      UserError: sizes are inconsistent, or the file cannot be written.
    """
    data, setup = data(), setup()
    if output_path is not None:
        storage.try_to_write(output_path)
    lengths = data.task_feature_lengths
    with setup.mesh(data) as mesh:
        made = setup.model(dtype="bfloat16")
        make_step, features = training_step(made, setup.optimizer(), mesh, data)
        calls = {}
        for name, is_rounded in _variants(made):
            calls[name] = _steps(make_step(), features)
            with is_rounded:
                # Traced within the context: later changes of the attribute do not affect it.
                calls[name]()
        taken = times_in_turn(calls, rounds)
    print(
        f"a training step of {data.batch_size} x ({lengths['inputs']} + {lengths['targets']}) "
        f"tokens, bfloat16, {mesh.size} device{'s' if mesh.size > 1 else ''}; median of {rounds} "
        "timings, taken in turn; other parts in float32, as by default",
        flush=True,
    )
    medians = {name: quartiles(seconds)[1] for name, seconds in taken.items()}
    whole = next(iter(medians.values()))
    rows = [(name, f"{1e3 * s:.1f}", f"{s / whole:.3f}") for name, s in medians.items()]
    print(*table([HEADING, *rows]), sep="\n")
    if output_path is not None:
        found = {name: quartile_figures("step", seconds) for name, seconds in taken.items()}
        facts = {"in_bfloat16": found, "versions": run_facts.versions()}
        storage.write_json(output_path, facts)


def _steps(step: TrainStep, features) -> Callable[[], object]:
    """Returns a function that takes the next step at each call."""
    numbers = itertools.count()
    return lambda: step(features, next(numbers))


def _variants(model) -> Iterator[tuple[str, contextlib.AbstractContextManager]]:
    """Yields each part and a context in which the model computes it in bfloat16."""
    blocks = (*model.encoder.blocks, *model.decoder.blocks)
    attentions = [block.self_attention.layer for block in blocks]
    attentions += [block.cross_attention.layer for block in blocks if block.cross_attention]
    output = model.embedding if model.softmax is None else model.softmax
    routers = [layer.router for layer in model.switch_layers]
    yield "none of these", contextlib.nullcontext()
    yield "attention logits", _with(attentions, "float32_logits", False)
    yield "softmax logits", _with([output], "float32_logits", False)
    if routers:
        yield "router", _with(routers, "dtype_policy", "bfloat16")


@contextlib.contextmanager
def _with(layers, attribute: str, value):
    """Sets an attribute of layers within a context."""
    before = [getattr(layer, attribute) for layer in layers]
    for layer in layers:
        setattr(layer, attribute, value)
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            setattr(layer, attribute, old)
