"""What crosses devices in a compiled function, read off what DTensor lowers it to."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from switch_tf import runtime
from switch_tf.training.step import TrainStep

# TensorFlow's ops between devices, by what the paper calls them.
_KINDS = {
    "CollectiveAllToAllV2": "all-to-all",
    "CollectiveReduceV2": "all-reduce",
    "CollectiveGatherV2": "all-gather",
    "CollectiveReduceScatterV2": "reduce-scatter",
}
# The last one that changes an operation; those behind it wrap operations for the executor.
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
    """One operation between devices, as each of them takes part in it.

    Attributes:
      kind: "all-to-all", "all-reduce", "all-gather", "reduce-scatter", or TensorFlow's name.
      dtype: of what crosses, as MLIR writes it: "bf16", "f32".
      size: number of elements that a device puts in.
      devices: how many take part in each group.
    """

    kind: str
    dtype: str
    size: int
    devices: int

    @property
    def bytes(self) -> int:
        """Bytes that a device puts in."""
        return self.size * _BYTES[self.dtype]


def lower(function: Callable, *args) -> str:
    """Calls a compiled function for the first time, and returns what DTensor made of it.

    Args:
      function: a `tf.function`, whose Python function has a name; not called before.
      *args: its arguments.

    Returns:
      MLIR text of the function as each device runs it.

    Raises:
      ValueError: it was compiled before, or no mesh is in use.
    """
    with runtime.lowered_functions() as folder:
        function(*args)
        name = f"__inference_{function.python_function.__name__}_"
        files = list(Path(folder).glob(f"dtensor.*.after_{_LAST_PASS}.{name}*"))
        if len(files) != 1:
            raise ValueError(f"{len(files)} functions {name} were lowered: compiled before?")
        return files[0].read_text()


def definition(text: str):
    """The `FunctionDef` that each device runs, whose nodes keep the names of the layers.

    Args:
      text: of `lower`.
    """
    from tensorflow.python.eager import context

    # DTensor registers what it lowers, by the number that it caches it with.
    return context.context().get_function_def("_func" + _CACHE_KEY.search(text)[1])


def collectives(text: str) -> list[Collective]:
    """The collectives of a lowered function, in its order.

    Args:
      text: of `lower`.
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
    """What DTensor makes of a training step.

    Attributes:
      texts: of `lower`, of each function that the step calls; gradients are in the first.
      times: how often it calls each.
    """

    texts: tuple[str, ...]
    times: tuple[int, ...]

    @classmethod
    def of(cls, step: TrainStep, features) -> "LoweredStep":
        """Makes the first step.

        Args:
          step: not called before.
          features: on the mesh.
        """
        functions = step.compiled(features, 0)
        texts = tuple(lower(one.function, *one.arguments) for one in functions)
        return cls(texts, tuple(one.times for one in functions))

    def collectives(self) -> list[Collective]:
        """All of a step, in its order."""
        found = []
        for text, times in zip(self.texts, self.times, strict=True):
            found += times * collectives(text)
        return found


def rows(found: list[Collective]) -> list[tuple]:
    """Cells of a table: kind, dtype, elements, devices, count, and bytes of alike ones together."""
    return [
        (one.kind, one.dtype, f"{one.size:,}", one.devices, count, f"{count * one.bytes:,}")
        for one, count in sorted(Counter(found).items())
    ]
