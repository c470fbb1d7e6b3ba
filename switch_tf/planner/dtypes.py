"""In what precision a Switch layer computes: read off the traced step, stage by stage."""

import dataclasses
import re

# The name scopes of `Router` and `SwitchLayer`, in the order of the computation.
STAGES = (
    "router/noise",
    "router/logits",
    "router/probabilities",
    "router/choice",
    "router/places",
    "router/load_balancing_loss",
    "dispatch",
    "experts",
    "combine",
)
_LAYER = re.compile(
    r"(?:^|/)(?:switch_ffn|attention(?:_\d+)?/(?:query|key_value))(?:_\d+)?/(?P<rest>.+)"
)
_NUMBER = re.compile(r"_\d+(?=/|$)")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class StageDtypes:
    """Float dtypes in which one stage computes, in all Switch layers of a model.

    Weights as they are stored, and casts, are no computation.
    """

    forward: tuple[str, ...]
    backward: tuple[str, ...]


def stage_dtypes(graph) -> dict[str, StageDtypes]:
    """Dtypes by stage of the Switch layers, of the stages that the graph has.

    Args:
      graph: `FuncGraph` of a training step.
    """
    found = {stage: (set(), set()) for stage in STAGES}
    for operation in graph.get_operations():
        match = _LAYER.search(operation.name)
        stage = match and _stage(match["rest"])
        if stage is None or operation.type in ("ReadVariableOp", "Cast"):
            continue
        names = {output.dtype.base_dtype.name for output in operation.outputs}
        found[stage]["gradient_tape" in operation.name].update(names.intersection(_FLOATS))
    return {
        stage: StageDtypes(tuple(sorted(forward)), tuple(sorted(backward)))
        for stage, (forward, backward) in found.items()
        if forward or backward
    }


def _stage(name: str) -> str | None:
    """The stage of an operation by its name within the layer, scopes numbered by TensorFlow."""
    name = _NUMBER.sub("", name)
    return next((stage for stage in STAGES if name.startswith(stage + "/")), None)
