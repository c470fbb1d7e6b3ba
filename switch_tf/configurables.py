"""What gin can configure, read off the source without importing it.

Importing the library takes TensorFlow's start, some six seconds. A misspelt name in a gin file
should not wait for that, so the declarations are found by parsing the modules.
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
# A call of it reads the macro that its first argument names.
_MACRO = "switch_tf.config.macro"
# Not ours, but in the operative config of every run whose task uses them.
_LIBRARIES = ("t5.data.preprocessors", "t5.data.utils")
MODEL = "TransformerEncoderDecoder"
_EXPERTS = "SwitchFFN.num_experts or SwitchProjection.num_experts"
# Layer -> what a model gives it, so that gin's own value would change nothing -> what to set.
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
    """A function or class that gin may set parameters of.

    Attributes:
      selector: complete name, such as `switch_tf.layers.router.SwitchRouter`.
      module: the Python module whose import registers it; None for gin's own.
      parameters: annotation by the name of its parameter; None if it takes any, or that cannot be
        told.
      makes: what it returns, a class itself; Any where that cannot be told.
      bases: names of the classes to which it hands its further keywords.
      given: parameters that a model gives it, whatever gin says, with what to set in their place.
    """

    selector: str
    module: str | None
    parameters: Mapping[str, Any] | None
    makes: Any = Any
    bases: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Without its module."""
        return self.selector.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class Source:
    """What some modules declare.

    Attributes:
      configurables: in the order of the source.
      constants: names given to `gin.constant`.
      macros: names of the macros that Python code reads.
    """

    configurables: tuple[Configurable, ...]
    constants: frozenset[str]
    macros: frozenset[str]


def read_module(text: str, module: str) -> Source:
    """What a module with source `text` declares.

    Raises:
      SyntaxError: `text` is not Python.
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
            # Its module is known only to the import: match it by its name alone.
            configurables.append(Configurable(_selector(own_name, "", given), module, None))
        elif _gin_name(node.func) == "constant":
            constants.add(_arguments(node, "name").get("name"))
        elif names.full_name(node.func, module) == _MACRO:
            macros |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    return Source(tuple(configurables), frozenset(constants), frozenset(macros))


def _decorated(node, module: str, names: annotations.Names) -> Iterator[Configurable]:
    """The configurable that a function or class is, if a decorator says so."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        function = call.func if call else decorator
        if _gin_name(function) not in ("configurable", "register"):
            continue
        # The further keywords of our layers are those of our layer that they extend, and Keras's,
        # which are not for gin.
        ours, is_class = "gin" not in ast.unparse(function), isinstance(node, ast.ClassDef)
        yield Configurable(
            _selector(node.name, module, _arguments(call, "name module")),
            module,
            _parameters(node, names, any_keyword=not ours),
            makes=names[node.name] if is_class else names.annotation(node.returns),
            bases=tuple(map(ast.unparse, node.bases)) if ours and is_class else (),
        )


def project_modules() -> Iterator[tuple[str, Path]]:
    """Name and file of each module of the project, sorted by their paths.

    In the repository, `switch_tf/tasks` is a link to the folder `tasks`, which is followed.
    """
    root = Path(__file__).parent
    files = (Path(folder, n) for folder, _, ns in os.walk(root, followlinks=True) for n in ns)
    for path in sorted(path for path in files if path.suffix == ".py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


@functools.cache
def project_source() -> Source:
    """What the modules of `switch_tf` declare, and those of T5 that tasks use."""
    sources = [Source(_GIN_OWN, frozenset(), frozenset())]
    sources += filter(None, map(module_source, _LIBRARIES))
    sources += (read_module(path.read_text(encoding="utf-8"), m) for m, path in project_modules())
    everything = merge(sources)
    return dataclasses.replace(everything, configurables=_inherit(everything.configurables))


def _inherit(configurables: tuple[Configurable, ...]) -> tuple[Configurable, ...]:
    """The same, each with the parameters of its bases among them, and with what a model gives."""
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
            # A kind of Switch layer takes its number of experts from gin, and hands it on.
            del found["num_experts"]
        return found | GIVEN.get(configurable.name, {})

    return tuple(
        dataclasses.replace(c, parameters=parameters(c), given=tuple(given(c).items()))
        for c in configurables
    )


def module_source(module: str) -> Source | None:
    """What a module or package outside the project declares; None where it is not found."""
    path = _file_of(module)
    if path is None:
        return None
    if path.suffix != ".py":
        return merge([])
    try:
        return read_module(path.read_text(encoding="utf-8"), module)
    except SyntaxError:
        # The import reports it, with Python's own account of the place.
        return merge([])


def project_name(module: str) -> str | None:
    """The full name of a module of the project that is named without the package; else None.

    So `tasks.c4` in the repository's folder is found to be `switch_tf.tasks.c4`, and a user's own
    `tasks.c4` is not.
    """
    own, known = f"{PACKAGE}.{module}", dict(project_modules())
    path = _file_of(module) if own in known else None
    is_ours = own in known and (path is None or path.samefile(known[own]))
    return own if is_ours else None


def _file_of(module: str) -> Path | None:
    """A module's file, or its folder where it has none; None where it is not found.

    Only the first part of a dotted name is looked up: looking up the rest would import it.
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
    """All that `sources` declare."""
    return Source(
        tuple(c for source in sources for c in source.configurables),
        frozenset().union(*(source.constants for source in sources)),
        frozenset().union(*(source.macros for source in sources)),
    )


def selector_map(source: Source) -> SelectorMap:
    """Map from partial names, as gin resolves them, to `Configurable`."""
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
    """`X` of an expression `gin.X`, else an empty string; our `configurable` counts as gin's."""
    if isinstance(node, ast.Name):
        return node.id if node.id == "configurable" else ""
    is_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return node.attr if is_attribute and node.value.id in ("gin", "rules") else ""


def _arguments(call: ast.Call | None, names: str) -> dict[str, str]:
    """String arguments of a call by name."""
    if call is None:
        return {}
    pairs = list(zip(names.split(), call.args, strict=False))
    pairs += [(keyword.arg, keyword.value) for keyword in call.keywords]
    return {k: v.value for k, v in pairs if isinstance(v, ast.Constant) and v.value is not None}


def _selector(own_name: str, own_module: str, given: dict[str, str]) -> str:
    """Complete name, as gin makes it of a decorator's arguments."""
    name = given.get("name", own_name)
    # A dotted name brings its own module.
    module = given.get("module", "" if "." in name else own_module)
    return f"{module}.{name}" if module else name


def _parameters(
    node: ast.FunctionDef | ast.ClassDef, names: annotations.Names, any_keyword: bool = True
) -> dict[str, Any] | None:
    """Annotations of the parameters of a function or a class; None if it may take any.

    Args:
      node: its definition.
      names: of its module.
      any_keyword: whether `**kwargs` means that any name will do.
    """
    skip = 0
    if isinstance(node, ast.ClassDef):
        methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
        init = [m for m in methods if m.name in ("__init__", "__new__")]
        if not init:
            is_dataclass = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
            if node.bases or node.keywords:
                # Of our layers, those of the base; else anything.
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
