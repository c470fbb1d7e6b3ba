"""The communication of a compiled function, read from the code that DTensor lowers it to."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from switch_tf import runtime
from switch_tf.layers.products import as_on_accelerators
from switch_tf.metrics.tables import size
from switch_tf.training.step import TrainStep

# TensorFlow's collective ops -> their usual names.
_KINDS = {
    "CollectiveAllToAllV2": "all-to-all",
    "CollectiveReduceV2": "all-reduce",
    "CollectiveGatherV2": "all-gather",
    "CollectiveReduceScatterV2": "reduce-scatter",
}
# The last pass that changes operations; later passes only wrap them for the executor.
_LAST_PASS = "DTensorFunctionRenaming"
_BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "i64": 8, "i32": 4, "i8": 1, "i1": 1}
_CONSTANT = re.compile(r'(%\w+) = "tf\.Const"\(\) <\{value = dense<(-?\d+)> : tensor<i32>\}>')
_CACHE_KEY = re.compile(r'dtensor\.cache_key = "(\w+)"')
_COLLECTIVE = re.compile(
    r'"tf\.(?P<op>Collective\w+)"\((?P<operands>[^)]*)\).*?'
    r": \((?P<inputs>[^)]*)\) -> tensor<(?P<result>[^>]*)>"
)
_TENSOR = re.compile(r"tensor<([^>]*)>")


@dataclasses.dataclass(frozen=True, order=True)
class Collective:
    """One collective operation, as seen by each participating device.

    Attributes:
      kind: "all-to-all", "all-reduce", "all-gather", "reduce-scatter", or TensorFlow's name.
      dtype: dtype of the elements in MLIR's notation, such as "bf16" or "f32".
      size: number of elements sent by each device.
      devices: number of devices in each group.
    """

    kind: str
    dtype: str
    size: int
    devices: int

    @property
    def bytes(self) -> int:
        """Bytes sent by each device."""
        return self.size * _BYTES[self.dtype]


def lower(function: Callable, *args) -> str:
    """Calls a compiled function for the first time and returns its lowered form.

    It is lowered as for an accelerator, also where this CPU would compute in another precision.

    Args:
      function: a `tf.function` of a named Python function, not called before.
      *args: its arguments.

    Returns:
      The MLIR text of the function as each device runs it.

    Raises:
      ValueError: the function was compiled before, or no mesh is in use.
    """
    with runtime.lowered_functions() as folder, as_on_accelerators():
        function(*args)
        name = f"__inference_{function.python_function.__name__}_"
        files = list(Path(folder).glob(f"dtensor.*.after_{_LAST_PASS}.{name}*"))
        if len(files) != 1:
            raise ValueError(f"{len(files)} functions {name} were lowered: compiled before?")
        return files[0].read_text(encoding="utf-8")


def definition(text: str):
    """The `FunctionDef` that each device runs, whose nodes keep the layers' names.

    Args:
      text: the result of `lower`.
    """
    from tensorflow.python.eager import context

    # DTensor registers a lowered function under its cache key.
    return context.context().get_function_def("_func" + _CACHE_KEY.search(text)[1])


def collectives(text: str) -> list[Collective]:
    """The collectives of a lowered function, in order of appearance.

    Args:
      text: the result of `lower`.
    """
    constants = dict(_CONSTANT.findall(text))
    found = []
    for match in _COLLECTIVE.finditer(text):
        first = _TENSOR.search(match["inputs"])[1]
        *shape, dtype = first.split("x")
        group_size = match["operands"].split(",")[1].strip()
        found.append(
            Collective(
                kind=_KINDS.get(match["op"], match["op"]),
                dtype=dtype,
                size=math.prod(int(n) for n in shape),
                devices=int(constants[group_size]),
            )
        )
    return found


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A training step as lowered by DTensor.

    Attributes:
      texts: the MLIR text of each function that the step calls; the first computes gradients.
      times: how often the step calls each function.
    """

    texts: tuple[str, ...]
    times: tuple[int, ...]

    @classmethod
    def of(cls, step: TrainStep, features) -> "LoweredStep":
        """Lowers a step by taking it once.

        Args:
          step: a step that was not called before.
          features: a batch on the mesh.
        """
        functions = step.compiled(features, 0)
        texts = tuple(lower(one.function, *one.arguments) for one in functions)
        return cls(texts, tuple(one.times for one in functions))

    def collectives(self) -> list[Collective]:
        """All collectives of a step, in order."""
        found = []
        for text, times in zip(self.texts, self.times, strict=True):
            found += times * collectives(text)
        return found


def rows(found: list[Collective]) -> list[tuple]:
    """Table rows of kind, dtype, elements, devices, count and bytes, grouping equal collectives."""
    return [
        (one.kind, one.dtype, f"{one.size:,}", one.devices, count, size(count * one.bytes))
        for one, count in sorted(Counter(found).items())
    ]
