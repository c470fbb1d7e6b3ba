"""Evaluates parameter annotations from the source of a module, without importing it."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import contextlib
import functools
import inspect
import itertools
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from switch_tf import rules

# Names from these modules are resolved to the real objects.
_IMPORTED = {"typing": typing, "collections.abc": collections.abc, "switch_tf.rules": rules}
_FOLDER = Path(__file__).parent.parent
# Other libraries' classes of values, which no class of the project is.
_VALUES = ("Tensor", "DTypePolicy", "Path")
# What the text of each module has that declares something to gin.
_DECLARES = re.compile(r"configurable|(gin|rules)\.(register|constant)|\bmacro\b")


class StandIn(type):
    """A stand-in class for what is not imported, such as TensorFlow's classes and attributes.

    Stand-ins for the project's classes have the same base classes, so `issubclass` works on them.
    """

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        found = StandIn(name, (), {"is_known": False})
        # The same at the next look-up, so that equal annotations are equal.
        setattr(cls, name, found)
        return found

    def __getitem__(cls, item):
        return cls


def declares(text: str) -> bool:
    """Whether a module may declare something to gin.

    Most do not, and parsing them would take a second at the start of each command.
    """
    return _DECLARES.search(text) is not None


class _Module:
    """A project module whose members another module refers to."""

    def __init__(self, names: Names):
        self._names = names

    def __getattr__(self, name):
        return self._names[name]


class Names(dict):
    """The names in a module's annotations -> their types, resolved lazily.

    A class of the project has the same stand-in wherever it is named.

    Attributes:
      tree: the module's syntax tree.

    Args:
      tree: as above.
    """

    def __init__(self, tree: ast.Module):
        super().__init__()
        self.tree = tree
        self._assigned = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        self._classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self._imported = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    self._imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    self._imported[alias.asname or first] = alias.name if alias.asname else first

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def of(cls, text: str) -> Names:
        """The names in a module with the given source."""
        return cls(ast.parse(text))

    def __missing__(self, name: str) -> Any:
        if name.startswith("__"):
            # Python's own look-ups of special names.
            raise KeyError(name)
        # Set first, so that a definition that refers to itself does not recurse endlessly.
        self[name] = StandIn(name, (), {"is_known": False})
        if name in self._classes:
            self[name] = self._stand_in(self._classes[name])
        elif name in self._assigned:
            self[name] = self._value(self._assigned[name])
        elif name in self._imported:
            self[name] = _find(self._imported[name], self[name])
        elif hasattr(builtins, name):
            self[name] = getattr(builtins, name)
        return self[name]

    def _stand_in(self, node: ast.ClassDef) -> StandIn:
        bases = [self._value(base) for base in node.bases]
        known = [base for base in bases if is_class(base)]
        try:
            return StandIn(node.name, tuple(known), {"is_known": True})
        except TypeError:
            # Bases in an order that Python refuses, as it will when the module is imported.
            return StandIn(node.name, (), {"is_known": False})

    def _value(self, node: ast.expr) -> Any:
        try:
            return eval(compile(ast.Expression(node), "annotation", "eval"), self)
        except Exception:
            # An annotation can be any expression, including ones that are not understood.
            return Any

    def annotation(self, node: ast.expr | None, default: ast.expr | None = None) -> Any:
        """The type given by an annotation; Any if there is none or it is not understood.

        Args:
          node: the annotation's syntax tree.
          default: the parameter's default; if it is None, the type is made optional.
        """
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                node = ast.parse(node.value, mode="eval").body
            except SyntaxError:
                return Any
        found = Any if node is None else self._value(node)
        takes_none = isinstance(default, ast.Constant) and default.value is None
        return typing.Optional[found] if takes_none and found is not Any else found  # noqa: UP045

    def parameter(self, node: ast.expr | None, default: ast.expr | None) -> Any:
        """What a parameter may be, by its annotation or, without one, by its default.

        A truth value takes no number, a number no text, and so on; None is let through, and so are
        `@references`. A default of another kind says nothing.

        Args:
          node, default: see `annotation`.
        """
        kind = None if node is not None else _of_default(default)
        if kind is None:
            return self.annotation(node, default)
        wanted = f"{rules.wanted(kind)}, as the default is, or annotate the parameter"
        return Annotated[typing.Optional[kind], rules.Rule(wanted), rules.Inferred()]  # noqa: UP045

    def full_name(self, node: ast.expr, module: str) -> str:
        """The full name of an expression `a.b.c`, by the module's imports; empty if not a name.

        Args:
          node: the expression.
          module: the module's name, which qualifies names that are not imported.
        """
        if isinstance(node, ast.Attribute):
            owner = self.full_name(node.value, module)
            return owner and f"{owner}.{node.attr}"
        if isinstance(node, ast.Name):
            return self._imported.get(node.id, f"{module}.{node.id}")
        return ""


def is_class(value: Any) -> bool:
    """Whether a value stands for a class of the project, whose bases are known."""
    return isinstance(value, StandIn) and value.is_known


def may_be(made: Any, wanted: Any) -> bool:
    """Whether what a function or class makes may be what is wanted; True if that is not known.

    Args:
      made: what it makes, as annotated, or the stand-in of a class of the project.
      wanted: the annotation of what is wanted.
    """
    kinds = [(m, w) for m in rules.alternatives(made) for w in rules.alternatives(wanted)]
    return not kinds or any(_may_be(*kind) for kind in kinds)


def _may_be(made: Any, wanted: Any) -> bool:
    parts = typing.get_args(made), typing.get_args(wanted)
    made, wanted = (typing.get_origin(kind) or kind for kind in (made, wanted))
    if made is wanted is dict and all(parts):
        return all(itertools.starmap(may_be, zip(*parts, strict=True)))
    if not (_is_told_apart(made) and _is_told_apart(wanted)):
        return True
    if wanted is Literal:
        return made in (str, int, bool)
    if not (inspect.isclass(made) and inspect.isclass(wanted)):
        return False
    # Stand-ins of another library's class may be several.
    same = made.__name__ == wanted.__name__ or (made, wanted) == (int, float)
    return same or issubclass(made, wanted)


def _is_told_apart(kind: Any) -> bool:
    """Whether it is known what a kind is not."""
    if isinstance(kind, StandIn) and not kind.is_known:
        return kind.__name__ in _VALUES
    return kind is not Any and not isinstance(kind, typing.TypeVar)


def _find(full_name: str, otherwise: Any) -> Any:
    """The object of an imported name; `otherwise` if it is not of the project."""
    if full_name in _IMPORTED:
        return _IMPORTED[full_name]
    module, _, name = full_name.rpartition(".")
    if module in _IMPORTED:
        return getattr(_IMPORTED[module], name, otherwise)
    if full_name.partition(".")[0] != "switch_tf":
        return otherwise
    for module_name, found in ((full_name, _Module), (module, lambda names: names[name])):
        path = _FOLDER.joinpath(*module_name.split(".")).with_suffix(".py")
        if path.is_file():
            return found(Names.of(path.read_text(encoding="utf-8")))
    return otherwise


# Of numbers a whole one may be the default of one that need not be.
_OF_DEFAULT = {bool: bool, int: float, float: float, str: str}
_SHARE = Annotated[float, rules.Rule("a number from 0 to 1", lambda x: 0 <= x <= 1)]
_FUNCTION = collections.abc.Callable[..., Any]
# T5's functions annotate few parameters, and none with its range.
_OF_T5 = {
    "noise_density": rules.NoiseDensity,
    "mean_noise_span_length": rules.SpanLength,
    "inputs_length": rules.Count,
    "extra_tokens_per_span_inputs": rules.Whole,
    "extra_tokens_per_span_targets": rules.Whole,
    "max_length": rules.Count,
    "min_length": rules.Whole,
    "batch_size": rules.Count,
    "max_tokens_per_segment": rules.Count,
    "min_tokens_per_segment": rules.Count,
    "max_span_length": rules.Count,
    "min_span_length": rules.Count,
    "num_reserved_tokens": rules.Whole,
    "random_prob": _SHARE,
    "return_value": rules.Whole,
    "maximum": rules.Positive,
    "temperature": rules.Positive,
    "scale": rules.Positive,
    "value": rules.NonNegative,
    "feature_key": rules.Name,
    "input_feature_key": rules.Name,
    "noise_mask_fn": _FUNCTION,
    "inputs_fn": _FUNCTION,
    "targets_fn": _FUNCTION,
    "preprocessors": collections.abc.Sequence[_FUNCTION],
    "sequence_length": collections.abc.Mapping[str, rules.Count],
}
_TYPING = Names.of("from typing import Any, Callable, Mapping, Optional, Sequence, Union")


def _of_default(default: ast.expr | None) -> type | None:
    """The type of what a parameter with a default takes; None if that does not say it."""
    with contextlib.suppress(ValueError, TypeError, SyntaxError):
        return _OF_DEFAULT.get(type(ast.literal_eval(default)))
    return None


def of_t5(name: str, node: ast.expr | None, default: ast.expr | None) -> Any:
    """What a parameter of one of T5's functions may be, by its name, annotation or default.

    Args:
      name: the parameter's name.
      node, default: see `Names.annotation`.
    """
    if name in _OF_T5:
        takes_none = isinstance(default, ast.Constant) and default.value is None
        return typing.Optional[_OF_T5[name]] if takes_none else _OF_T5[name]  # noqa: UP045
    return _of_default(default) or _TYPING.annotation(node, default)
