"""Finds what gin can configure by parsing the source code, without importing it.

Importing the library starts TensorFlow, which takes some six seconds. An error in a gin file should
not wait for that, so declarations are found by parsing the modules.
"""

import ast
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gin.selector_map import SelectorMap

from switch_tf import annotations

PACKAGE = "switch_tf"
# Calls of this function read the macro named by their first argument.
_MACRO = "switch_tf.config.macro"
# External modules that appear in the operative config of every run whose task uses them.
_LIBRARIES = ("t5.data.preprocessors", "t5.data.utils")
MODEL = "TransformerEncoderDecoder"
_EXPERTS = "SwitchFFN.num_experts or SwitchProjection.num_experts"
# Layer -> parameter that the model passes to it, overriding gin -> the parameter to set instead.
GIVEN = {
    "SwitchLayer": {"num_experts": _EXPERTS, "init_scale": f"{MODEL}.init_scale"},
    "SwitchFFN": {
        name: f"{MODEL}.{name}" for name in ("d_ff", "activation", "expert_dropout_rate")
    },
    "SwitchProjection": {
        "kernels": f"{MODEL}.switch_attention",
        "num_heads": f"{MODEL}.num_heads",
        "d_kv": f"{MODEL}.d_kv",
    },
    "SwitchAttention": {
        **{name: f"{MODEL}.{name}" for name in ("num_heads", "d_kv", "dropout_rate", "init_scale")},
        "float32_logits": f"{MODEL}.float32_attention_logits",
    },
    "Router": {"num_experts": _EXPERTS, "init_scale": f"{MODEL}.init_scale"},
}


@dataclasses.dataclass(frozen=True)
class Configurable:
    """A function or class whose parameters gin may set.

    Attributes:
      selector: the complete name, such as `switch_tf.layers.router.SwitchRouter`.
      module: the Python module whose import registers it; None for gin's own configurables.
      parameters: parameter -> annotation; None if it accepts any or they are unknown.
      makes: the return type, or the class itself; Any if unknown.
      bases: names of the classes to which it passes its remaining keyword arguments.
      given: parameters that the model always passes, overriding gin, with the ones to set instead.
    """

    selector: str
    module: str | None
    parameters: Mapping[str, Any] | None
    makes: Any = Any
    bases: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The name without its module."""
        return self.selector.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class Source:
    """The declarations of one or more modules.

    Attributes:
      configurables: the configurables in source order.
      constants: names of constants defined by `gin.constant`.
      macros: names of the macros that Python code reads.
    """

    configurables: tuple[Configurable, ...]
    constants: frozenset[str]
    macros: frozenset[str]


def read_module(text: str, module: str) -> Source:
    """Parses the declarations in a module's source.

    Raises:
      SyntaxError: `text` is not valid Python.
    """
    names = annotations.Names.of(text)
    configurables, constants, macros = [], set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            configurables += _decorated(node, module, names)
        elif not isinstance(node, ast.Call):
            continue
        elif _gin_name(node.func) == "external_configurable":
            given = _arguments(node, "fn name module")
            own_name = ast.unparse(node.args[0]).rpartition(".")[2]
            # Its module is known only after importing it, so it is matched by its name alone.
            configurables.append(Configurable(_selector(own_name, "", given), module, None))
        elif _gin_name(node.func) == "constant":
            constants.add(_arguments(node, "name").get("name"))
        elif names.full_name(node.func, module) == _MACRO:
            macros |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    return Source(tuple(configurables), frozenset(constants), frozenset(macros))


def _decorated(node, module: str, names: annotations.Names) -> Iterator[Configurable]:
    """Yields the configurable that a decorated function or class declares, if any."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        function = call.func if call else decorator
        if _gin_name(function) not in ("configurable", "register"):
            continue
        # The **kwargs of our layers go to the base layer, if it is ours, and to Keras, which gin
        # does not configure.
        ours, is_class = "gin" not in ast.unparse(function), isinstance(node, ast.ClassDef)
        yield Configurable(
            _selector(node.name, module, _arguments(call, "name module")),
            module,
            _parameters(node, names, any_keyword=not ours),
            makes=names[node.name] if is_class else names.annotation(node.returns),
            bases=tuple(map(ast.unparse, node.bases)) if ours and is_class else (),
        )


@functools.cache
def project_modules() -> dict[str, Path]:
    """Name -> file of each module of the project, sorted by path.

    In the repository, `switch_tf/tasks` is a symbolic link to `tasks`, which is followed.
    """
    root = Path(__file__).parent
    files = (Path(folder, n) for folder, _, ns in os.walk(root, followlinks=True) for n in ns)
    found = {}
    for path in sorted(path for path in files if path.suffix == ".py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


@functools.cache
def project_source() -> Source:
    """The declarations of `switch_tf` and of the T5 modules that tasks use."""
    sources = [Source(_GIN_OWN, frozenset(), frozenset())]
    sources += filter(None, map(module_source, _LIBRARIES))
    sources += (
        read_module(path.read_text(encoding="utf-8"), m) for m, path in project_modules().items()
    )
    everything = merge(sources)
    return dataclasses.replace(everything, configurables=_inherit(everything.configurables))


def _inherit(configurables: tuple[Configurable, ...]) -> tuple[Configurable, ...]:
    """Adds to each configurable its bases' parameters and the parameters that the model passes."""
    by_name = {c.name: c for c in configurables}

    def parameters(configurable):
        if configurable.parameters is None:
            return None
        found = {}
        for base in reversed(configurable.bases):
            found |= (parameters(by_name[base]) if base in by_name else None) or {}
        return found | configurable.parameters

    def given(configurable):
        found = {}
        for base in configurable.bases:
            found |= given(by_name[base]) if base in by_name else {}
        if "SwitchLayer" in configurable.bases:
            # A subclass of the Switch layer gets its number of experts from gin and passes it on.
            del found["num_experts"]
        return found | GIVEN.get(configurable.name, {})

    return tuple(
        dataclasses.replace(c, parameters=parameters(c), given=tuple(given(c).items()))
        for c in configurables
    )


def module_source(module: str) -> Source | None:
    """The declarations of a module or package outside the project; None if it is not found."""
    path = _file_of(module)
    if path is None:
        return None
    if path.suffix != ".py":
        return merge([])
    try:
        return read_module(path.read_text(encoding="utf-8"), module)
    except SyntaxError:
        # Importing it reports the error, with Python's own location.
        return merge([])


def project_name(module: str) -> str | None:
    """The full name of a project module that is named without the package; else None.

    In the repository's folder, `tasks.c4` is `switch_tf.tasks.c4`; a user's own `tasks.c4` is not.
    """
    own, known = f"{PACKAGE}.{module}", project_modules()
    path = _file_of(module) if own in known else None
    is_ours = own in known and (path is None or path.samefile(known[own]))
    return own if is_ours else None


def _file_of(module: str) -> Path | None:
    """A module's file, or its folder if it has no file; None if it is not found.

    Only the first part of a dotted name is resolved, because resolving the rest would import it.
    """
    first, *rest = module.split(".")
    spec = importlib.util.find_spec(first)
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if spec.origin and not rest else None
    folder = Path(list(spec.submodule_search_locations)[0]).joinpath(*rest)
    paths = [folder.with_suffix(".py"), folder / "__init__.py", folder]
    return next((path for path in paths if path.exists()), None)


def merge(sources: list[Source]) -> Source:
    """Combines the declarations of several sources."""
    return Source(
        tuple(c for source in sources for c in source.configurables),
        frozenset().union(*(source.constants for source in sources)),
        frozenset().union(*(source.macros for source in sources)),
    )


def selector_map(source: Source) -> SelectorMap:
    """A map from partial names, resolved as in gin, to `Configurable`."""
    found = SelectorMap()
    for configurable in source.configurables:
        found[configurable.selector] = configurable
    return found


_GIN_OWN = (
    Configurable("gin.macro", None, {"value": Any}),
    Configurable("gin.constant", None, {}),
    Configurable("gin.singleton", None, {"constructor": Any}),
)


def _gin_name(node: ast.expr) -> str:
    """The `X` in an expression `gin.X`, else ""; our `configurable` counts as gin's."""
    if isinstance(node, ast.Name):
        return node.id if node.id == "configurable" else ""
    is_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return node.attr if is_attribute and node.value.id in ("gin", "rules") else ""


def _arguments(call: ast.Call | None, names: str) -> dict[str, str]:
    """The string arguments of a call, by name."""
    if call is None:
        return {}
    pairs = list(zip(names.split(), call.args, strict=False))
    pairs += [(keyword.arg, keyword.value) for keyword in call.keywords]
    return {k: v.value for k, v in pairs if isinstance(v, ast.Constant) and v.value is not None}


def _selector(own_name: str, own_module: str, given: dict[str, str]) -> str:
    """The complete name that gin derives from a decorator's arguments."""
    name = given.get("name", own_name)
    # A dotted name includes its own module.
    module = given.get("module", "" if "." in name else own_module)
    return f"{module}.{name}" if module else name


def _parameters(
    node: ast.FunctionDef | ast.ClassDef, names: annotations.Names, any_keyword: bool = True
) -> dict[str, Any] | None:
    """Parameter -> annotation, for a function or class; None if it accepts any.

    Args:
      node: the definition.
      names: the names in its module.
      any_keyword: whether `**kwargs` accepts any name.
    """
    skip = 0
    if isinstance(node, ast.ClassDef):
        methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
        init = [m for m in methods if m.name in ("__init__", "__new__")]
        if not init:
            is_dataclass = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
            if node.bases or node.keywords:
                # Our layers pass them to their base; others accept any name.
                return None if any_keyword else {}
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and is_dataclass]
            return {f.target.id: names.annotation(f.annotation, f.value) for f in fields}
        node, skip = init[0], 1
    if node.args.kwarg and any_keyword:
        return None
    positional, by_keyword = node.args.posonlyargs + node.args.args, node.args.kwonlyargs
    defaults = [None] * (len(positional) - len(node.args.defaults)) + node.args.defaults
    pairs = [*zip(positional, defaults, strict=True)][skip:]
    pairs += zip(by_keyword, node.args.kw_defaults, strict=True)
    return {a.arg: names.annotation(a.annotation, default) for a, default in pairs}
