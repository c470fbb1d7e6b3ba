"""Describes a run in text and tables before it starts."""

import math
from collections.abc import Iterator

from switch_tf import mesh as mesh_lib
from switch_tf.data.task_data import TaskData
from switch_tf.layers.router import Router
from switch_tf.metrics.tables import size, table
from switch_tf.models.encoder_decoder import parameter_count
from switch_tf.optimizers import schedules


def overview(model, optimizer, mesh) -> Iterator[str]:
    """Lines on what matters first: the model's size, what a device holds of it, the mesh.

    Args:
      model: a built `TransformerEncoderDecoder`.
      optimizer: a built optimizer.
      mesh: the mesh in use.
    """
    yield model_line(model)
    weights = [variable.value for variable in model.trainable_variables]
    slots = optimizer.slots.values()
    weight_bytes, slot_bytes = (sum(map(_bytes_per_device, found)) for found in (weights, slots))
    yield f"per device: weights {size(weight_bytes)}, optimizer slots {size(slot_bytes)}"
    yield mesh_line(mesh)


def model_line(model) -> str:
    """A line on a built `TransformerEncoderDecoder`: its size, layers, experts and dtype."""
    sparse = model.switch_layers
    experts = " or ".join(str(n) for n in dict.fromkeys(layer.num_experts for layer in sparse))
    kind = f"{len(sparse)} Switch layers of {experts} experts" if sparse else "dense"
    return (
        f"model: {parameter_count(model):,} parameters, {model.num_layers} + {model.num_layers} "
        f"layers, {kind}, computes in {model.compute_dtype}"
    )


def mesh_line(mesh) -> str:
    """A line on a mesh's dimensions and rules."""
    shape = ", ".join(f"{name} {count}" for name, count in mesh.shape.items())
    rules = ", ".join(f"{axis} -> {dimension}" for axis, dimension in mesh.rules.items())
    return f"mesh: {shape}; rules: {rules or 'none'}"


def details(model, data: TaskData, mesh, microbatches: int = 1) -> Iterator[str]:
    """Lines on the model's settings, each weight with its axes and layout, and each Switch layer.

    Args:
      model: a built `TransformerEncoderDecoder`.
      data: data of the run.
      mesh: the mesh in use.
      microbatches: number of parts of a batch, each routed by itself.

    Raises:
      UserError: the groups of a Switch layer are not divisible by the number of batch shards.
    """
    yield from settings(model)
    yield from _weights(model, mesh)
    yield from switch_layers(model, data, mesh, microbatches)


def settings(model) -> Iterator[str]:
    """Lines on settings that gin may have changed: precision, dropout rates, kinds of routers.

    Args:
      model: a `TransformerEncoderDecoder`, which need not be built.
    """
    exact = {
        "attention logits": model.float32_attention_logits,
        "softmax logits": model.float32_softmax_logits,
    }
    if model.compute_dtype == "bfloat16":
        names = [name for name, is_exact in exact.items() if is_exact]
        yield "float32: weights, norms, losses" + "".join(f", {name}" for name in names)
    inside = model.expert_dropout_rate
    inside = model.dropout_rate if inside is None else inside
    yield f"dropout: rate {model.dropout_rate}, inside the experts {inside}"
    yield from dict.fromkeys(_router(layer.router) for layer in model.switch_layers)


def _router(router) -> str:
    policy, noise = router.policy, {"input_jitter": "jitter", "input_dropout": "input_dropout_rate"}
    if policy in noise:
        policy += f" {getattr(router, noise[policy])}"
    capacity = f"capacity factor {router.capacity_factor}, in eval {router.eval_capacity_factor}"
    if router.absolute_capacity is not None:
        capacity = f"capacity {router.absolute_capacity}"
    shared = Router.get_config(router).keys()
    own = {name: value for name, value in router.get_config().items() if name not in shared}
    return (
        f"router: {type(router).__name__} in {router.compute_dtype}, {policy}, in eval "
        f"{router.eval_policy}; {capacity}, at least {router.min_capacity} tokens per expert; "
        f"load-balancing coefficient {router.load_balancing_coef} over "
        f"{router.load_balancing_over}, z-loss coefficient {router.z_loss_coef}"
        + "".join(f"; {name} {value}" for name, value in own.items())
    )


def describe_optimizer(optimizer, step: int, offset: int, train_steps: int) -> str:
    """A line on the learning rate schedule, the step it depends on, and the first learning rate.

    Args:
      optimizer: a built optimizer.
      step: step at which the run starts or resumes.
      offset: how far the optimizer's step is ahead of the run's.
      train_steps: the last step; where none is left, there is no first learning rate.
    """
    counts = "the run's step"
    if offset:
        counts = f"the optimizer's step, {offset} ahead of the run's"
    told = f"learning rate: {schedules.describe(optimizer.learning_rate)} of {counts}"
    if step >= train_steps:
        return f"{told}; no step is left"
    with mesh_lib.host():
        rate = float(optimizer.learning_rate(step + offset))
    return f"{told}: {rate:.6g} at the first update (step {step + offset})"


def _weights(model, mesh):
    rows = [("weight", "axes", "shape", "layout", "per device")]
    for variable in model.trainable_variables:
        rows.append(
            (
                variable.path,
                " ".join(axis or "-" for axis in variable.axes),
                "x".join(str(n) for n in variable.shape),
                " ".join(s if s in mesh.shape else "-" for s in mesh.spec(variable.axes)),
                size(_bytes_per_device(variable.value)),
            )
        )
    yield from table(rows)


def switch_layers(model, data: TaskData, mesh, microbatches: int = 1) -> Iterator[str]:
    """Lines on each Switch layer: experts, groups, capacities, coefficients, and settings cut.

    Args:
      model: a `TransformerEncoderDecoder`, which need not be built.
      data: data of the run.
      mesh: mesh over which the batch is sharded; may be on paper.
      microbatches: number of parts of a batch, each routed by itself.

    Raises:
      UserError: the groups are not divisible by the number of batch shards.
    """
    rows = [
        (
            "switch layer",
            "experts",
            "groups",
            "group size",
            "capacity",
            "in eval",
            "coef.",
            "z coef.",
        )
    ]
    for layer, batch_size, length in _sparse(model, data, microbatches):
        groups, group_size = layer.groups(batch_size, length, mesh)
        capacities = [layer.router.capacity(group_size, training) for training in (True, False)]
        rows.append(
            (
                layer.path,
                layer.num_experts,
                groups,
                group_size,
                *capacities,
                layer.router.load_balancing_coef,
                layer.router.z_loss_coef,
            )
        )
    if len(rows) == 1:
        yield "no switch layers: the model is dense"
        return
    yield from table(rows)
    yield from warnings(model, data, mesh, microbatches)


def warnings(model, data: TaskData, mesh, microbatches: int = 1) -> Iterator[str]:
    """Lines on Switch layers whose groups or capacities are far from what settings ask for.

    Args:
      model, data, mesh, microbatches: see `switch_layers`.

    Raises:
      UserError: the groups are not divisible by the number of batch shards.
    """
    told: dict[str, list[str]] = {}
    for layer, batch_size, length in _sparse(model, data, microbatches):
        groups, group_size = layer.groups(batch_size, length, mesh)
        for line in (
            *_small_groups(layer, batch_size, length, group_size),
            *_cuts(layer.router, group_size),
            *_factors(layer, groups, group_size),
        ):
            told.setdefault(line, []).append(layer.path)
    for line, paths in told.items():
        yield f"{paths[0]}{_and_more(len(paths) - 1)}: {line}"
    if model.switch_layers and model.switch_layers[-1].router.dropless:
        layer = model.switch_layers[-1]
        yield (
            f"dropless: no token is dropped; experts and all-to-alls process {layer.num_experts} "
            f"slots per token, instead of {layer.router.capacity_factor} with CAPACITY_FACTOR"
        )


def _sparse(model, data: TaskData, microbatches: int) -> Iterator[tuple]:
    """Each Switch layer, with the rows and columns of the part of a batch that it routes."""
    lengths = data.task_feature_lengths
    for stack, length in ((model.encoder, lengths["inputs"]), (model.decoder, lengths["targets"])):
        for layer in stack.switch_layers:
            yield layer, data.batch_size // microbatches, length


def _and_more(count: int) -> str:
    return f" and {count} more layer{'s' if count > 1 else ''}" if count else ""


def _small_groups(layer, batch_size: int, length: int, group_size: int) -> Iterator[str]:
    """A warning if groups are at most half as large as asked for."""
    wanted = min(layer.group_size or length, batch_size * length // layer.groups_multiple)
    if 2 * group_size <= wanted:
        yield (
            f"groups have {group_size} tokens, not {wanted}, because {batch_size} x {length} "
            "tokens have no better divisor: use rounder values of BATCH_SIZE and "
            "TASK_FEATURE_LENGTHS"
        )


def _factors(layer, groups: int, group_size: int) -> Iterator[str]:
    """Warnings if capacities are far from the capacity factors, or groups were enlarged for it."""
    router, asked = layer.router, "CAPACITY_FACTOR"
    if groups % layer.groups_multiple:
        yield (
            f"the number of groups, {groups}, is not a multiple of "
            f"GROUPS_MULTIPLE={layer.groups_multiple}, because in smaller groups an expert's "
            "capacity would be far from CAPACITY_FACTOR; a larger mesh may form other groups"
        )
    for training, prefix in ((True, ""), (False, "EVAL_")):
        factor = router.odd_factor(group_size, training)
        if factor is None:
            continue
        value = router.factor(training)
        effect = "more tokens are dropped" if factor < value else "experts do more work"
        yield (
            f"an expert takes {router.capacity(group_size, training)} of a group's {group_size} "
            f"tokens, a capacity factor of {factor:.3g} instead of {prefix}{asked}={value}, so "
            f"{effect}: use larger groups (BATCH_SIZE, GROUPS_MULTIPLE, GROUP_SIZE), fewer "
            "experts, or another Router.min_capacity"
        )


def _cuts(router, group_size: int) -> Iterator[str]:
    """Warnings for settings that ask for a capacity larger than a group."""
    if router.dropless:
        return
    asked = {"Router.min_capacity": (router.min_capacity, router.min_capacity)}
    if router.absolute_capacity is not None:
        asked = {"Router.absolute_capacity": (router.absolute_capacity,) * 2}
    else:
        for name, factor in (
            ("CAPACITY_FACTOR", router.capacity_factor),
            ("EVAL_CAPACITY_FACTOR", router.eval_capacity_factor),
        ):
            asked[name] = factor, math.floor(group_size * factor / router.num_experts)
    for name, (value, tokens) in asked.items():
        if tokens > group_size:
            yield (
                f"{name}={value} asks for more tokens than a group has: capacity is cut to "
                f"{group_size}"
            )


def _bytes_per_device(variable) -> int:
    layout = getattr(variable, "layout", None)
    shards = [] if layout is None else [layout.num_shards(i) for i in range(layout.rank)]
    return math.prod(variable.shape) // math.prod(shards) * variable.dtype.size
