"""How activations are sharded over a mesh, read from the shapes in the lowered step."""

import dataclasses
import re

from switch_tf.mesh import Mesh


@dataclasses.dataclass(frozen=True)
class _Activation:
    """The operation in the step that computes an activation, by name, and its axes."""

    operation: str
    axes: tuple[str, ...]


_LAYER = r"layer_\d+(_\d+)?/"
_EXPERTS = _LAYER + r"feed_forward(_\d+)?/switch_ffn(_\d+)?/experts(_\d+)?/"
_ACTIVATIONS = {
    "tokens between layers": _Activation(
        _LAYER + r"feed_forward(_\d+)?/add", ("batch", "length", "d_model")
    ),
    "attention weights": _Activation(
        _LAYER + r"self_attention(_\d+)?/attention(_\d+)?/Softmax",
        ("batch", "heads", "length", "length"),
    ),
    "hidden layer, dense": _Activation(
        _LAYER + r"feed_forward(_\d+)?/ffn(_\d+)?/einsum/Einsum", ("batch", "length", "d_ff")
    ),
    "experts' buffers": _Activation(
        _EXPERTS + "einsum_1/Einsum", ("experts", "groups", "expert_capacity", "d_model")
    ),
    "hidden layer of experts": _Activation(
        _EXPERTS + "einsum/Einsum", ("experts", "groups", "expert_capacity", "d_ff")
    ),
}


def activation_places(definition, mesh: Mesh) -> dict[str, tuple[tuple[str, ...], list[str]]]:
    """Activation -> its axes, and the mesh dimensions that shard it, in the order of the axes.

    Args:
      definition: the `FunctionDef` of a training step, from `lowered.definition`.
      mesh: the mesh it was lowered for, whose dimensions must differ in size.

    Raises:
      ValueError: layers shard an activation differently, or the number of shards matches no mesh
        dimension.
    """
    found: dict[str, set] = {}
    for node in definition.node_def:
        for name, activation in _ACTIVATIONS.items():
            if re.search(rf"(?<!gradient_tape/)model.*/{activation.operation}$", node.name):
                found.setdefault(name, set()).add(_dimensions(node, mesh))
    places = {}
    for name, activation in _ACTIVATIONS.items():
        if name in found:
            if len(found[name]) != 1:
                raise ValueError(f"layers shard {name} differently: {sorted(found[name])}")
            (over,) = found[name]
            places[name] = activation.axes, list(over)
    return places


def _dimensions(node, mesh: Mesh) -> tuple[str, ...]:
    """The mesh dimensions that shard an operation's output, from its global and local shape."""
    whole, local = (
        [dim.size for dim in node.attr[attribute].list.shape[0].dim]
        for attribute in ("_global_shape", "_output_shapes")
    )
    by_size = {size: dimension for dimension, size in mesh.shape.items()}
    parts = [n // k for n, k in zip(whole, local, strict=True) if n != k]
    if not set(parts) <= set(by_size):
        raise ValueError(f"{node.name}: parts {parts} on a mesh of {mesh.shape}")
    return tuple(by_size[part] for part in parts)
