"""What activations a step keeps, and how a mesh shards them, read from the lowered step."""

import dataclasses
import math
import re

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

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


# Operations whose output is their input in another shape, or the same.
_SAME_MEMORY = ("Identity", "Reshape", "ExpandDims", "Squeeze", "StopGradient", "PreventGradient")
# What takes no memory of its own: weights and constants.
_NOT_KEPT = ("Const", "ReadVariableOp", "Placeholder")
# Of layers and losses; all-reduces that DTensor has joined may be of both passes, and are small.
_FORWARD = re.compile(r"(model|loss|ReduceLogSumExp)(_\d+)?(/|$)(?!.*AllReduce)")


def kept_bytes(definition) -> dict[str, int]:
    """Tensor of the forward pass -> its bytes on a device, for those that the backward pass takes.

    Weights are left out, also rounded: an accelerator rounds them where it reads them.

    Args:
      definition: the `FunctionDef` of a training step, from `lowered.definition`.
    """
    nodes = {node.name: node for node in definition.node_def}
    found = {}
    for node in definition.node_def:
        if not _is_backward(node.name):
            continue
        for source in node.input:
            name, argument, index = _resolved(source, nodes)
            # Sums of gradients, which have no name of the model's, are of the backward pass, too.
            is_forward = _FORWARD.match(name) and not _is_backward(name)
            # Without an argument, it is an input of the function, or only the order of operations.
            if is_forward and argument and not _is_weight(nodes[name], nodes):
                found[f"{name}:{argument}:{index}"] = _bytes_of(nodes[name], argument, index)
    return found


def _is_backward(name: str) -> bool:
    return "gradient_tape" in name


def _resolved(source: str, nodes) -> tuple[str, str, int]:
    """The operation, output argument and index that an input comes from, in whatever shape."""
    while True:
        name, _, rest = source.partition(":")
        argument, _, index = rest.partition(":")
        node = nodes.get(name)
        if node is None or node.op not in (*_SAME_MEMORY, "IdentityN"):
            return name, argument, int(index or 0)
        source = node.input[int(index or 0) if node.op == "IdentityN" else 0]


def _is_weight(node, nodes) -> bool:
    while node.op == "Cast" or node.op in _SAME_MEMORY:
        source = node.input[0].partition(":")[0]
        if source not in nodes:
            return True
        node = nodes[source]
    return node.op in _NOT_KEPT


def _bytes_of(node, argument: str, index: int) -> int:
    output = {one.name: one for one in op_def_registry.get(node.op).output_arg}[argument]
    number = node.attr[output.type_attr].type if output.type_attr else output.type
    shape = node.attr["_output_shapes"].list.shape[index]
    return math.prod(dim.size for dim in shape.dim) * tf.as_dtype(number).size
