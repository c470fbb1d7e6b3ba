"""The precision in which a Switch layer computes, read from the lowered step by stage."""

import dataclasses
import re

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

# The name scopes of `Router` and `SwitchLayer`, in the order in which they compute.
STAGES = (
    "router/noise",
    "router/logits",
    "router/probabilities",
    "router/choice",
    "router/places",
    "router/load_balancing_loss",
    "router/z_loss",
    "dispatch",
    "experts",
    "combine",
)
_LAYER = re.compile(
    r"(?:^|/)(?:switch_ffn|attention(?:_\d+)?/(?:query|key_value))(?:_\d+)?/(?P<rest>.+)"
)
_NUMBER = re.compile(r"_\d+(?=/|$)")
_NO_COMPUTATION = ("ReadVariableOp", "Cast")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class StageDtypes:
    """The float dtypes in which one stage computes, over all Switch layers of a model.

    Stored weights, casts and communication (`lowered.collectives`: on CPU, DTensor sums bfloat16 in
    float32) do not count as computation.
    """

    forward: tuple[str, ...]
    backward: tuple[str, ...]


def stage_dtypes(definition) -> dict[str, StageDtypes]:
    """Stage -> dtypes, for the stages of Switch layers that a function contains.

    Args:
      definition: the `FunctionDef` of a training step, from `lowered.definition`.
    """
    found = {stage: (set(), set()) for stage in STAGES}
    for node in definition.node_def:
        match = _LAYER.search(node.name)
        stage = match and _stage(match["rest"])
        if stage is None or node.op in _NO_COMPUTATION or node.op.startswith("Collective"):
            continue
        found[stage]["gradient_tape" in node.name].update(_output_dtypes(node) & set(_FLOATS))
    return {
        stage: StageDtypes(tuple(sorted(forward)), tuple(sorted(backward)))
        for stage, (forward, backward) in found.items()
        if forward or backward
    }


def _output_dtypes(node) -> set[str]:
    types = set()
    for output in op_def_registry.get(node.op).output_arg:
        if output.type_attr:
            types.add(node.attr[output.type_attr].type)
        elif output.type_list_attr:
            types.update(node.attr[output.type_list_attr].list.type)
        else:
            types.add(output.type)
    return {tf.as_dtype(number).name for number in types}


def _stage(name: str) -> str | None:
    """The stage of an operation, by its name in the layer, ignoring TensorFlow's scope numbers."""
    name = _NUMBER.sub("", name)
    return next((stage for stage in STAGES if name.startswith(stage + "/")), None)
