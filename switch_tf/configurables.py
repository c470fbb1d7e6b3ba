"""Finds what gin can configure by parsing the source code, without importing it.

Importing the library starts TensorFlow, which takes some six seconds. An error in a gin file should
not wait for that, so declarations are found by parsing the modules.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gin.selector_map import SelectorMap

from switch_tf import annotations, rules

PACKAGE = "switch_tf"
# Calls of this function read the macro named by their first argument.
_MACRO = "switch_tf.config.macro"
# External modules that appear in the operative config of every run whose task uses them.
_LIBRARIES = ("t5.data.preprocessors", "t5.data.utils")
MODEL = "TransformerEncoderDecoder"
# Defaults that stand for a missing value.
_MISSING = ("gin.REQUIRED", "switch_tf.optimizers.schedules.not_given")


@dataclasses.dataclass(frozen=True)
class Configurable:
    """A function or class whose parameters gin may set.

    Attributes:
      selector: the complete name, such as `switch_tf.layers.router.SwitchRouter`.
      module: the Python module whose import registers it; None for gin's own configurables.
      parameters: parameter -> annotation; None if it accepts any or they are unknown.
      makes: the return type, or the class itself; Any if unknown.
      bases: names of the classes to which it passes its remaining keyword arguments.
      required: parameters that have no value unless gin gives one.
      declaration: the syntax tree of the function or class; None if it is not read.
    """

    selector: str
    module: str | None
    parameters: Mapping[str, Any] | None
    makes: Any = Any
    bases: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    declaration: ast.FunctionDef | ast.ClassDef | None = None

    @property
    def name(self) -> str:
        """The name without its module."""
        return self.selector.rpartition(".")[2]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """The declarations of one or more modules.

    Attributes:
      configurables: the configurables in source order.
      constants: names of constants defined by `gin.constant`.
      macros: name -> annotation, of the macros that Python code reads.
    """

    configurables: tuple[Configurable, ...]
    constants: frozenset[str]
    macros: Mapping[str, Any]


def read_module(text: str, module: str) -> Source:
    """Parses the declarations in a module's source.

    Raises:
      SyntaxError: `text` is not valid Python.
    """
    configurables, constants, macros = [], set(), {}
    if not annotations.declares(text):
        return Source((), frozenset(), {})
    names = annotations.Names.of(text)
    for node in ast.walk(names.tree):
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
            macros |= _macro(node, names)
    return Source(tuple(configurables), frozenset(constants), macros)


def _macro(call: ast.Call, names: annotations.Names) -> dict[str, Any]:
    """The name and annotation of the macro that a call of `config.macro` reads."""
    name, *default = call.args
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if not isinstance(name, ast.Constant):
        return {}
    return {name.value: names.annotation(keywords.get("annotation"), *default)}


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
        denied, parameters = _denied(call), _parameters(node, names, any_keyword=not ours)
        if parameters is not None:
            parameters = {n: kind for n, kind in parameters.items() if n not in denied}
        yield Configurable(
            _selector(node.name, module, _arguments(call, "name module")),
            module,
            parameters,
            makes=names[node.name] if is_class else names.annotation(node.returns),
            bases=tuple(map(ast.unparse, node.bases)) if ours and is_class else (),
            required=tuple(n for n in _required(node, names, module) if n not in denied),
            declaration=node,
        )


def _denied(call: ast.Call | None) -> set[str]:
    """The parameters in gin's `denylist`, which only code passes."""
    keywords = call.keywords if call else []
    lists = (k.value for k in keywords if k.arg == "denylist" and isinstance(k.value, ast.List))
    return {e.value for found in lists for e in found.elts if isinstance(e, ast.Constant)}


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
    sources = [Source(_GIN_OWN, frozenset(), {})]
    sources += map(_library_source, _LIBRARIES)
    sources += (
        read_module(path.read_text(encoding="utf-8"), m) for m, path in project_modules().items()
    )
    everything = merge(sources)
    return dataclasses.replace(everything, configurables=_inherit(everything.configurables))


def marked(kind: type[rules.T]) -> Iterator[tuple[str, rules.T]]:
    """Yields what the project's settings are marked as, by their annotations.

    Args:
      kind: a kind of mark, such as `rules.Axis`.

    Yields:
      A macro or `configurable.parameter`, and its mark.
    """
    source = project_source()
    settings = dict(source.macros)
    for configurable in source.configurables:
        for parameter, annotation in (configurable.parameters or {}).items():
            settings[f"{configurable.name}.{parameter}"] = annotation
    for name, annotation in settings.items():
        if mark := rules.mark(annotation, kind):
            yield name, mark


def _inherit(configurables: tuple[Configurable, ...]) -> tuple[Configurable, ...]:
    """Adds to each configurable its bases' parameters."""
    by_name = {c.name: c for c in configurables}

    def parameters(configurable):
        if configurable.parameters is None:
            return None
        found = {}
        for base in reversed(configurable.bases):
            found |= (parameters(by_name[base]) if base in by_name else None) or {}
        return found | configurable.parameters

    return tuple(dataclasses.replace(c, parameters=parameters(c)) for c in configurables)


def _library_source(module: str) -> Source:
    """The declarations of one of T5's modules, which annotates hardly any parameter."""
    found = module_source(module) or merge([])
    return dataclasses.replace(found, configurables=tuple(map(_of_t5, found.configurables)))


def _of_t5(configurable: Configurable) -> Configurable:
    """A function of T5, whose parameters are annotated by their names and defaults.

    It takes and ignores others, so that a misspelt one would do nothing.
    """
    if configurable.parameters is None and configurable.declaration.args.kwarg.arg == "kwargs":
        # Passed to another function.
        return configurable
    kinds = {
        name: annotations.of_t5(name, kind, default)
        for name, kind, default in declared(configurable.declaration)
        # T5's own code passes the others.
        if default is not None
    }
    return dataclasses.replace(configurable, parameters=kinds)


def module_source(module: str) -> Source | None:
    """The declarations of a module or package outside the project; None if it is not found."""
    path = _file_of(module)
    if path is None:
        return None
    if path.suffix != ".py":
        return merge([])
    try:
        return read_module(path.read_text(encoding="utf-8"), module)
    except (SyntaxError, ValueError):
        # Python cannot read it. Importing it reports the error, with Python's own location.
        return merge([])


def project_name(module: str) -> str | None:
    """The full name of a project module that is named without the package; else None.

    In the repository's folder, `tasks.c4` is `switch_tf.tasks.c4`; a user's own `tasks.c4` is not.
    """
    own, known = f"{PACKAGE}.{module}", project_modules()
    path = _file_of(module) if own in known else None
    is_ours = own in known and (path is None or path.samefile(known[own]))
    return own if is_ours else None


def modules_called(name: str) -> list[str]:
    """The full names of the project's modules whose names end with `name`."""
    return [module for module in project_modules() if module.endswith(f".{name}")]


def _is_name(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def _file_of(module: str) -> Path | None:
    """A module's file, or its folder if it has no file; None if it is not found.

    Only the first part of a dotted name is resolved, because resolving the rest would import it.
    """
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first) if _is_name(module) else None
    except ValueError:
        # Of a module without one, such as __main__.
        spec = None
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if spec.origin and not rest else None
    folder = Path(list(spec.submodule_search_locations)[0]).joinpath(*rest)
    paths = [folder.with_suffix(".py"), folder / "__init__.py", folder]
    return next((path for path in paths if path.exists()), None)


def merge(sources: list[Source]) -> Source:
    """Combines the declarations of several sources."""
    if len(sources) == 1:
        return sources[0]
    return Source(
        tuple(c for source in sources for c in source.configurables),
        frozenset().union(*(source.constants for source in sources)),
        _macros(sources),
    )


def _macros(sources: list[Source]) -> dict[str, Any]:
    """The macros of several sources; an annotation in one of them holds for all."""
    found: dict[str, Any] = {}
    for source in sources:
        for name, kind in source.macros.items():
            if found.get(name, Any) is Any:
                found[name] = kind
    return found


@functools.lru_cache(maxsize=8)
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
    init = constructor(node)
    if init is None and (node.bases or node.keywords):
        # Our layers pass them to their base; others accept any name.
        return None if any_keyword else {}
    if init is not None and init.args.kwarg and any_keyword:
        return None
    return {n: names.parameter(kind, default) for n, kind, default in declared(node)}


def _required(node, names: annotations.Names, module: str) -> Iterator[str]:
    """The parameters of a function or class whose default stands for a missing value."""
    for name, _, default in declared(node):
        if default is not None and names.full_name(default, module) in _MISSING:
            yield name


def constructor(node: ast.FunctionDef | ast.ClassDef) -> ast.FunctionDef | None:
    """The function that takes a class's arguments, if it has one; a function itself."""
    if isinstance(node, ast.FunctionDef):
        return node
    methods = (m for m in node.body if isinstance(m, ast.FunctionDef))
    return next((m for m in methods if m.name in ("__init__", "__new__")), None)


def defaults(configurable: Configurable) -> dict[str, Any]:
    """Parameter -> default, where that is a literal, or a configurable of the project: its name."""
    found, known = {}, {c.name for c in project_source().configurables}
    for name, _, default in declared(configurable.declaration):
        with contextlib.suppress(ValueError):
            if default is not None:
                own = ast.unparse(default).rpartition(".")[2]
                found[name] = own if own in known else ast.literal_eval(default)
    return found


def declared(
    node: ast.FunctionDef | ast.ClassDef,
) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Yields name, annotation and default of each parameter of a function, class or dataclass."""
    init = constructor(node)
    if init is None:
        is_dataclass = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and is_dataclass]
        yield from ((f.target.id, f.annotation, f.value) for f in fields)
        return
    positional, by_keyword = init.args.posonlyargs + init.args.args, init.args.kwonlyargs
    defaults = [None] * (len(positional) - len(init.args.defaults)) + init.args.defaults
    pairs = [*zip(positional, defaults, strict=True)][isinstance(node, ast.ClassDef) :]
    pairs += zip(by_keyword, init.args.kw_defaults, strict=True)
    yield from ((a.arg, a.annotation, default) for a, default in pairs)
