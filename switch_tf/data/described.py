"""Preprocessors and readers as text that differs if their settings or a user's code do."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import re
import types
from collections.abc import Iterator, Mapping, Set
from typing import Any

import gin
import numpy as np
import seqio
import tensorflow as tf

_LONGEST_SHOWN = 200
# How deep the values that a function holds are looked into.
_DEEPEST = 6
# Packages whose code is told by their versions, and whose objects may hold what changes as they
# work.
_LIBRARIES = frozenset(
    ("builtins", "functools", "gin", "keras", "numpy", "seqio", "switch_tf", "t5", "tensorflow")
    + ("tensorflow_datasets", "tensorflow_text")
)
_PLAIN = bool | int | float | complex | str | bytes | None | re.Pattern


def digest(vocabulary: seqio.Vocabulary) -> str:
    """A digest of a vocabulary, which differs if its pieces do."""
    model = getattr(vocabulary, "sp_model", None)
    name = f"{type(vocabulary).__name__} of {vocabulary.vocab_size}".encode()
    return hashlib.sha256(model or name).hexdigest()


def described(value: Any) -> str:
    """Describes a preprocessor, a reader, or a value that one is given or holds.

    Of functions and objects it has the name, what gin sets, default values, and what closures,
    attributes and, in a user's functions, global names hold; also a digest of a user's code.
    """
    return _described(value, ())


def _described(value: Any, within: tuple) -> str:
    if isinstance(value, _PLAIN) or value is ...:
        return repr(value)
    if any(value is outer for outer in within) or len(within) > _DEEPEST:
        return "..."
    within = (*within, value)

    def each(values) -> Iterator[str]:
        return (_described(one, within) for one in values)

    if isinstance(value, functools.partial):
        given = [*each(value.args), *_named(value.keywords, within)]
        return f"{_described(value.func, within)}({', '.join(given)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(each(value))}]"
    if isinstance(value, Set):
        return f"{{{', '.join(sorted(each(value)))}}}"
    if isinstance(value, Mapping):
        pairs = zip(each(value), each(value.values()), strict=True)
        return f"{{{', '.join(f'{key}: {of_key}' for key, of_key in pairs)}}}"
    if isinstance(value, np.ndarray | np.generic | tf.Tensor):
        return _array(value)
    if isinstance(value, seqio.Vocabulary):
        return f"{type(value).__name__} {digest(value)[:12]}"
    if inspect.ismethod(value):
        return f"{_described(value.__self__, within)}.{_described(value.__func__, within)}"
    if inspect.isclass(value) or inspect.ismodule(value) or inspect.isbuiltin(value):
        return getattr(value, "__qualname__", value.__name__)
    if inspect.isfunction(value):
        return _function(value, within)
    return _object(value, within)


def _function(function: types.FunctionType, within: tuple) -> str:
    found, name = inspect.getclosurevars(function), function.__qualname__
    held: dict[str, Any] = dict(found.nonlocals)
    if _is_of_library(function):
        # Other things that a library's functions hold may be caches.
        held = {k: v for k, v in held.items() if isinstance(v, _PLAIN | list | tuple)}
        of, inner = _short(_named(held, within)), getattr(function, "__wrapped__", None)
        name = _described(inner, within) if inner else f"{name}{_set_by_gin(name)}"
        return f"{name}{of and f' of {of}'}"
    code, defaults = function.__code__, function.__defaults__ or ()
    named = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    held |= dict(zip(named, defaults, strict=True)) | (function.__kwdefaults__ or {})
    of = _short(_named(held | _values(found.globals), within))
    return f"{name}{_set_by_gin(name)}{of and f' of {of}'}{_code(code)}"


def _values(found: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are no modules, classes or functions."""
    parts = types.ModuleType | type
    return {k: v for k, v in found.items() if not isinstance(v, parts) and not callable(v)}


def _object(value: Any, within: tuple) -> str:
    kind = type(value)
    if hasattr(value, "__wrapped__"):
        return _described(value.__wrapped__, within)
    name = f"{kind.__qualname__}{_set_by_gin(kind.__qualname__)}"
    if _is_of_library(kind):
        return name
    held = dict(getattr(value, "__dict__", {}))
    slots = (getattr(each, "__slots__", ()) for each in kind.__mro__)
    for of_class in slots:
        names = [of_class] if isinstance(of_class, str) else of_class
        held |= {slot: getattr(value, slot) for slot in names if hasattr(value, slot)}
    if dataclasses.is_dataclass(value):
        held |= {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    of = _short(_named(held, within))
    call = getattr(kind.__call__, "__code__", None) if callable(value) else None
    return f"{name}{of and f' of {of}'}{_code(call) if call else ''}"


def _is_of_library(value: Any) -> bool:
    """Whether the code of a function or class belongs to one of `_LIBRARIES`.

    A wrapper has the module of what it wraps, so that its globals tell.
    """
    module = getattr(value, "__globals__", {}).get("__name__", value.__module__)
    return module.partition(".")[0] in _LIBRARIES


def _named(held: Mapping[str, Any], within: tuple) -> list[str]:
    return [f"{name}={_described(value, within)}" for name, value in sorted(held.items())]


def _short(given: list[str]) -> str:
    text = ", ".join(given)
    return f"values {_sha(text.encode())}" if len(text) > _LONGEST_SHOWN else text


def _array(value: Any) -> str:
    try:
        array = np.asarray(value)
    except Exception:
        # A tensor of a graph has no value.
        return f"tensor {value.dtype.name}{value.shape}"
    # Strings in arrays are objects, whose bytes are addresses.
    content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
    return f"array {array.dtype}{list(array.shape)} {_sha(content)}"


def _code(code: types.CodeType) -> str:
    return f" (code {_sha(repr(_parts(code)).encode())})"


def _parts(code: types.CodeType) -> tuple:
    """What of a function's code says what it does: not its lines and file."""
    constants = [
        _parts(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts
    ]
    return code.co_code, constants, code.co_names, code.co_varnames


def _constant(value: Any) -> str:
    """A constant's text, which does not depend on the order in which a process has sets."""
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _set_by_gin(name: str) -> str:
    """What gin sets of a configurable, if it is one."""
    try:
        bindings = gin.get_bindings(name)
    except ValueError:
        return ""
    given = ", ".join(f"{key}={value!r}" for key, value in sorted(bindings.items()))
    return f" with {given}" if given else ""
