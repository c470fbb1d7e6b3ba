"""Evaluates parameter annotations from the source of a module, without importing it."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import re
import typing
from pathlib import Path
from typing import Any

from switch_tf import rules

# Names from these modules are resolved to the real objects.
_IMPORTED = {"typing": typing, "collections.abc": collections.abc, "switch_tf.rules": rules}
_FOLDER = Path(__file__).parent.parent
# What the text of each module has that declares something to gin.
_DECLARES = re.compile(r"configurable|(gin|rules)\.(register|constant)|\bmacro\b")


class StandIn(type):
    """A stand-in class for what is not imported, such as TensorFlow's classes and attributes.

    Stand-ins for the project's classes have the same base classes, so `issubclass` works on them.
    """

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

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
_OF_T5 = {
    "noise_density": rules.NoiseDensity,
    "mean_noise_span_length": rules.SpanLength,
    "inputs_length": rules.Count,
    "extra_tokens_per_span_inputs": rules.Whole,
    "extra_tokens_per_span_targets": rules.Whole,
}


def of_t5(name: str, node: ast.expr | None, default: ast.expr | None) -> Any:
    """What a parameter of one of T5's functions may be, by its name and default if not annotated.

    Args:
      name: the parameter's name.
      node, default: see `Names.annotation`.
    """
    found = Names.of("").annotation(node, default)
    if found is not Any:
        return found
    value = default.value if isinstance(default, ast.Constant) else None
    return _OF_T5.get(name, _OF_DEFAULT.get(type(value), Any))
