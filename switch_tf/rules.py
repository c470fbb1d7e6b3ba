"""Validates parameters by their annotations alone, as in `steps: Count = 100`.

`config.precheck` reads the annotations from the source and checks gin's values against them before
TensorFlow starts. Functions and classes decorated with `configurable` or `checked` check their
arguments when called, so that callers from Python get the same errors.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union

import gin

from switch_tf import storage
from switch_tf.errors import UserError

T = TypeVar("T")


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


@dataclasses.dataclass(frozen=True)
class SetBy:
    """Marks a parameter that the model passes, so that gin cannot set it, in `Annotated`.

    Attributes:
      setting: what to set instead.
    """

    setting: str


@dataclasses.dataclass(frozen=True)
class Inferred:
    """Marks what is only guessed by a default, which `@references` need not match."""


def of_model(parameter: str) -> SetBy:
    """Marks a layer's parameter that is the model's parameter of the given name."""
    return SetBy(f"TransformerEncoderDecoder.{parameter}")


@dataclasses.dataclass(frozen=True)
class Folder:
    """Marks the path of a folder to read, which must exist before a run, in `Annotated`.

    Attributes:
      what: what to give, for the error.
    """

    what: str

    def check(self, name: str, path: str | os.PathLike) -> str:
        """Checks that a folder exists, and expands ~ to the home folder.

        Args:
          name: the name under which the user set it.
          path: the folder.

        Raises:
          UserError: there is no such folder.
        """
        folder = os.path.expanduser(path)
        if not storage.is_folder(folder):
            raise UserError(f"{name}='{path}': no such folder; give {self.what}")
        return folder


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Marks the path of a MODEL_DIR or of a checkpoint folder, in `Annotated`.

    Such paths, and the settings that the checkpoint was made with, are checked before a run.

    Attributes:
      use: "resume" for the run's own folder, which need not exist and whose data must be the same;
        "start" for initial weights, taken from layers that both models have; "restore" for all
        weights; "teach" for a teacher, whose model may be another.
    """

    use: Literal["resume", "start", "restore", "teach"]


Count = Annotated[int, Rule("a whole number of at least 1", lambda n: n >= 1)]
Whole = Annotated[int, Rule("a whole number of at least 0", lambda n: n >= 0)]
Seed = Annotated[int, Rule("a whole number from 0 to 2^31 - 1", lambda n: 0 <= n < 2**31)]
NonNegative = Annotated[float, Rule("a number of at least 0", lambda x: x >= 0)]
Positive = Annotated[float, Rule("a number above 0", lambda x: x > 0)]
Rate = Annotated[float, Rule("a number of at least 0 and less than 1", lambda x: 0 <= x < 1)]
# Of span corruption.
NoiseDensity = Annotated[
    float, Rule("a share of the tokens, above 0 and below 1", lambda x: 0 < x < 1)
]
SpanLength = Annotated[float, Rule("a number of tokens of at least 1", lambda x: x >= 1)]
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


def _compile(patterns: Sequence[str]) -> bool:
    try:
        return all(re.compile(pattern) for pattern in patterns)
    except (re.error, OverflowError, RecursionError):
        return False


def _is_said(name: str | os.PathLike) -> bool:
    return bool(str(name).strip())


# Of variables' paths; a pattern may be found anywhere in a path.
VariablePatterns = Annotated[
    Sequence[str],
    Rule("a list of regular expressions in quotes, such as ['router']", _compile),
]
Name = Annotated[str, Rule("a name in quotes", _is_said)]
Path = Annotated[str | os.PathLike, Rule("a path in quotes", _is_said)]
Pattern = Annotated[str, Rule("a path in quotes", _is_said)]
RunFolder = Annotated[Path, Checkpoint("resume")]
_SAVED = Folder("a MODEL_DIR that holds checkpoints, or a checkpoint_<step> folder")
InitialCheckpoint = Annotated[Path, _SAVED, Checkpoint("start")]
CheckpointPath = Annotated[Path, _SAVED, Checkpoint("restore")]
TeacherPath = Annotated[Path, _SAVED, Checkpoint("teach")]


def matches(path: str, patterns: VariablePatterns) -> bool:
    """Whether one of the patterns is found in a variable's path."""
    return any(re.search(pattern, path) for pattern in patterns)


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
        raise UserError(f"{name}={value!r}: give {wanted(annotation)}{_limits(value)}")


def _limits(value: Any) -> str:
    """What a value of a valid type exceeds, for the end of an error; may be empty."""
    return next(
        (
            f"; {text}"
            for kind, text, holds in _LIMITS
            if isinstance(value, kind) and not holds(value)
        ),
        "",
    )


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value matches an annotation.

    Integers match float, but bools match no number, as they match no literal but themselves. No
    number is infinite or longer than 64 bits, and no text has what a file's name cannot have.
    """
    kind, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is Annotated:
        rules = (part for part in parts[1:] if isinstance(part, Rule))
        return fits(value, parts[0]) and all(rule.holds(value) for rule in rules)
    if kind in (Union, types.UnionType):
        # A class that is not known takes any object, but beside types that are, no text or number.
        is_plain = isinstance(value, str | bytes | numbers.Number | list | tuple | dict | None)
        return any(fits(value, part) for part in (_known(parts) if is_plain else parts))
    if kind is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind in _TYPES:
        is_bool = isinstance(value, bool)
        return isinstance(value, _TYPES[kind]) and is_bool == (kind is bool) and not _limits(value)
    if kind in _DICTS:
        key, item = parts or (Any, Any)
        return isinstance(value, Mapping) and all(
            fits(k, key) and fits(v, item) for k, v in value.items()
        )
    if kind in _LISTS:
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return is_list and all(fits(part, (parts or (Any,))[0]) for part in value)
    return callable(value) if kind is Callable else True


def _known(parts: Sequence[Any]) -> Sequence[Any]:
    """The types of a union without the classes that are not known, unless it has no others."""
    known = [part for part in parts if _is_known(part)]
    return parts if known in ([], [types.NoneType]) else known


def _is_known(annotation: Any) -> bool:
    kind, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is Annotated:
        return _is_known(parts[0])
    return not inspect.isclass(kind) or kind in _TYPES or kind in (*_DICTS, *_LISTS, Callable)


def wanted(annotation: Any) -> str:
    """Describes the values that match an annotation."""
    kind, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is Annotated:
        texts = [part.text for part in parts[1:] if isinstance(part, Rule)]
        return texts[-1] if texts else wanted(parts[0])
    if kind in (Union, types.UnionType):
        return _one_of(list(map(wanted, _known(parts))))
    if kind is Literal:
        return _one_of(list(map(repr, parts)))
    if kind in _DICTS:
        return f"a dict, each key {wanted(parts[0])}, each value {wanted(parts[1])}"
    if kind in _LISTS:
        return f"a list, each {wanted(parts[0])}"
    if kind is Callable and made(annotation) is not Any and inspect.isclass(made(annotation)):
        return f"a function or a class that makes `{made(annotation).__name__}`, written @NAME"
    return _WORDS.get(kind) or getattr(kind, "__name__", str(kind))


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _one_of(texts: list[str]) -> str:
    commas = ", ".join(texts[:-1])
    return f"{commas} or {texts[-1]}" if commas else texts[-1]


_TYPES = {
    bool: bool,
    int: numbers.Integral,
    float: numbers.Real,
    str: str,
    os.PathLike: os.PathLike,
    types.NoneType: types.NoneType,
}
_DICTS, _LISTS = (dict, Mapping), (list, tuple, Sequence)
_LIMITS = (
    (numbers.Integral, "a number has at most 64 bits", lambda n: -(2**63) <= n < 2**63),
    (numbers.Real, "a number is finite", math.isfinite),
    (str, "a text has no NUL and no half of a surrogate pair", _is_text),
)
_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string in quotes",
    types.NoneType: "None",
    Callable: "a function or a class, written @NAME",
}


def mark(annotation: Any, kind: type[T]) -> T | None:
    """The `Axis`, `SetBy` or `Checkpoint` of an annotation; None if it has none of that kind."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, (mark(part, kind) for part in parts)), None)
    return next((part for part in parts if isinstance(part, kind)), None)


def alternatives(annotation: Any) -> list[Any]:
    """The types of a union except None, without the marks of `Annotated`."""
    kind, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if kind is Annotated:
        return alternatives(parts[0])
    if kind in (Union, types.UnionType):
        return [one for part in parts for one in alternatives(part)]
    return [] if annotation is types.NoneType else [annotation]


def items(annotation: Any) -> list[Any]:
    """What each item may be, for each kind of list that matches an annotation."""
    if annotation is Any:
        return [Any]
    every = (
        (typing.get_origin(one) or one, typing.get_args(one)) for one in alternatives(annotation)
    )
    return [(parts or (Any,))[0] for kind, parts in every if kind in _LISTS]


def made(annotation: Any) -> Any:
    """What the functions return that match an annotation; Any if it is not known."""
    callables = [one for one in alternatives(annotation) if typing.get_origin(one) is Callable]
    parts = typing.get_args(callables[0]) if callables else ()
    return parts[-1] if parts else Any


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
