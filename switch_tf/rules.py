"""What a parameter may be, as its annotation says, and nothing else: `steps: Count = 100`.

`config.precheck` reads the annotations from the source, and holds what gin sets against them before
TensorFlow starts; what is decorated with `configurable` or `checked` does so when it is called, so
that who calls it from Python is told the same.
"""

import dataclasses
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

import gin

from switch_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rule:
    """Beside a type in `Annotated`: which of its values will do.

    Attributes:
      text: what to give, in the words of the error.
      holds: whether a value of the type will do.
    """

    text: str
    holds: Callable[[Any], bool] = lambda value: True


@dataclasses.dataclass(frozen=True)
class Axis:
    """Beside a count in `Annotated`: it is the size of an axis, which must fit the mesh.

    Of axes other than the batch, checkpoints have the size, too.

    Attributes:
      name: as layout rules name it.
    """

    name: str


Count = Annotated[int, Rule("a whole number of at least 1", lambda n: n >= 1)]
Whole = Annotated[int, Rule("a whole number of at least 0", lambda n: n >= 0)]
Seed = Annotated[int, Rule("a whole number from 0 to 2^31 - 1", lambda n: 0 <= n < 2**31)]
NonNegative = Annotated[float, Rule("a number of at least 0", lambda x: x >= 0)]
Positive = Annotated[float, Rule("a number above 0", lambda x: x > 0)]
Rate = Annotated[float, Rule("a number of at least 0 and less than 1", lambda x: 0 <= x < 1)]
BatchSize = Annotated[Count, Axis("batch")]
Lengths = Annotated[
    dict[str, Count],
    Rule(
        "{'inputs': ..., 'targets': ...}, each a number of tokens of at least 1",
        lambda lengths: set(lengths) == {"inputs", "targets"},
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16"],
    Rule("'float32' or 'bfloat16'; T5's activations overflow float16"),
]
Path = Annotated[str | os.PathLike, Rule("a path in quotes")]
Pattern = Annotated[str, Rule("a path in quotes")]


def check(name: str, value: Any, annotation: Any) -> None:
    """Checks a value against the annotation of what it is given to.

    Args:
      name: how the user set it.
      value: of any type.
      annotation: what is not understood in it is not checked.

    Raises:
      UserError: it does not fit; the line says what would.
    """
    if not fits(value, annotation):
        raise UserError(f"{name}={value!r}: give {wanted(annotation)}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is one of an annotation; a whole number is one of float, no bool is."""
    kind, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is Annotated:
        rules = (part for part in parts[1:] if isinstance(part, Rule))
        return fits(value, parts[0]) and all(rule.holds(value) for rule in rules)
    if kind in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind in _TYPES:
        is_bool = isinstance(value, bool)
        return isinstance(value, _TYPES[kind]) and is_bool == (kind is bool)
    if kind in (dict, Mapping):
        key, item = parts or (Any, Any)
        return isinstance(value, Mapping) and all(
            fits(k, key) and fits(v, item) for k, v in value.items()
        )
    if kind in (list, tuple, Sequence):
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and all(fits(part, (parts or (Any,))[0]) for part in value)
    return callable(value) if kind is Callable else True


def wanted(annotation: Any) -> str:
    """What fits an annotation, in words."""
    kind, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is Annotated:
        texts = [part.text for part in parts[1:] if isinstance(part, Rule)]
        return texts[-1] if texts else wanted(parts[0])
    if kind in (Union, types.UnionType):
        return " or ".join(map(wanted, parts))
    if kind is Literal:
        return " or ".join(map(repr, parts))
    if kind in (dict, Mapping):
        return f"a dict, each key {wanted(parts[0])}, each value {wanted(parts[1])}"
    if kind in (list, tuple, Sequence):
        return f"a list, each {wanted(parts[0])}"
    return _WORDS.get(kind) or getattr(kind, "__name__", str(kind))


_TYPES = {
    bool: bool,
    int: numbers.Integral,
    float: numbers.Real,
    str: str,
    os.PathLike: os.PathLike,
    types.NoneType: types.NoneType,
}
_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    types.NoneType: "None",
    Callable: "a function or a class, as @NAME",
}


def axis(annotation: Any) -> str | None:
    """The axis that a parameter with this annotation sizes; None where it sizes none."""
    found = [part.name for part in typing.get_args(annotation) if isinstance(part, Axis)]
    return found[0] if found else None


def checked(target: Callable, name: str | None = None) -> Callable:
    """A function or a class that checks what it is called with by its annotations.

    Args:
      target: the function, or a class, which is changed.
      name: of the function in errors, by default its own; a class is called by its own name.
    """
    is_class = inspect.isclass(target)
    if is_class and "__init__" not in vars(target):
        return target
    function = target.__init__ if is_class else target
    signature = inspect.signature(function)
    # Read at the first call, when what they name is there.
    annotations = functools.cache(
        functools.partial(typing.get_type_hints, function, include_extras=True)
    )

    @functools.wraps(function)
    def call(*args, **kwargs):
        called = type(args[0]).__name__ if is_class else name or function.__name__
        given = dict(zip(signature.parameters, args, strict=False)) | kwargs
        for parameter, value in given.items():
            check(f"{called}.{parameter}", value, annotations().get(parameter, Any))
        return function(*args, **kwargs)

    # Keras and gin read it here.
    call.__signature__ = signature
    if not is_class:
        return call
    target.__init__ = call
    return target


def configurable(target_or_name: Callable | str | None = None, **options: Any) -> Callable:
    """`gin.configurable`, with its arguments, of what is `checked`."""
    if callable(target_or_name):
        return gin.configurable(checked(target_or_name))
    name = target_or_name
    return lambda target: gin.configurable(name, **options)(checked(target, name))
