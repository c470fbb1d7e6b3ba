"""Validates parameters by their annotations alone, as in `steps: Count = 100`.

`config.precheck` reads the annotations from the source and checks gin's values against them before
TensorFlow starts. Functions and classes decorated with `configurable` or `checked` check their
arguments when called, so that callers from Python get the same errors.
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
    """Restricts the values of a type, in `Annotated`.

    Attributes:
      text: the valid values, as described in the error.
      holds: returns whether a value of the type is valid.
    """

    text: str
    holds: Callable[[Any], bool] = lambda value: True


@dataclasses.dataclass(frozen=True)
class Axis:
    """Marks a count as the size of an axis, which must fit the mesh, in `Annotated`.

    Checkpoints depend on the sizes of all axes but the batch.

    Attributes:
      name: the axis's name in layout rules.
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
    """Checks a value against the annotation of a parameter.

    Args:
      name: the name under which the user set it.
      value: a value of any type.
      annotation: the annotation; parts that are not understood are not checked.

    Raises:
      UserError: the value is invalid; the message says what is valid.
    """
    if not fits(value, annotation):
        raise UserError(f"{name}={value!r}: give {wanted(annotation)}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value matches an annotation; integers match float, but bools match no number."""
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
    """Describes the values that match an annotation."""
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
    """The axis sized by a parameter with this annotation; None if there is none."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, map(axis, parts)), None)
    return next((part.name for part in parts if isinstance(part, Axis)), None)


def checked(target: Callable, name: str | None = None) -> Callable:
    """Makes a function or class check its arguments against its annotations.

    Args:
      target: the function, or the class, which is modified.
      name: the function's name in errors, by default its own; a class always has its own.
    """
    is_class = inspect.isclass(target)
    if is_class and "__init__" not in vars(target):
        return target
    function = target.__init__ if is_class else target
    signature = inspect.signature(function)
    # Evaluated at the first call, when the names in them are defined.
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

    # Keras and gin read the signature from here.
    call.__signature__ = signature
    if not is_class:
        return call
    target.__init__ = call
    return target


def configurable(target_or_name: Callable | str | None = None, **options: Any) -> Callable:
    """Like `gin.configurable`, with the same arguments, but also applies `checked`."""
    if callable(target_or_name):
        return gin.configurable(checked(target_or_name))
    name = target_or_name
    return lambda target: gin.configurable(name, **options)(checked(target, name))
