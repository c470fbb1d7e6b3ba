"""The page docs/reference.md: every macro and every parameter that gin can set.

It is read off the source and the gin files, without TensorFlow.
"""

import ast
import functools
import re
import types
import typing
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gin.selector_map import SelectorMap

from switch_tf import annotations, configurables, gin_files, rules
from switch_tf.configurables import Configurable
from switch_tf.gin_files import REQUIRED, Macro, Settings
from switch_tf.metrics.tables import markdown

_INTRO = """# Reference of the settings

Generated from the code by `python -m switch_tf.pages reference`. Set a macro by
`--gin.NAME=VALUE` and a parameter by `--gin.CONFIGURABLE.parameter=VALUE`, or by the same line
without `--gin.` in a gin file of your own. A text needs quotes of its own:
`--gin.MODEL_DIR="'runs/a'"`. A function or class is `@NAME`. "From NAME" in place of a default
means that the model passes the value: set that instead. [glossary.md](glossary.md) explains the
words, [fidelity.md](fidelity.md) compares the defaults that change numbers with those of other
code bases. What SeqIO and T5 let gin set, such as `random_spans_noise_mask.random_roll`, is not
listed.
"""
_MACROS = """
## Macros

A macro is a name for a value that several files share. The second column has the parameters that it
sets, or "the program" for macros that it reads directly. The third has its value in the files of
[gin/runs](../gin/runs), [gin/layouts](../gin/layouts) and [gin/models](../gin/models); "required"
means that you must give one, or the run whose checkpoint a command reads.
"""
# What the program reads without a parameter that would have a description.
_READ_BY_PROGRAM = {
    "BAD_DATA": "'stop' (default): a bad record stops the run; 'skip': it is left out and counted.",
    "CACHE_DIR": "The folder that scripts/cache_tasks.sh wrote; USE_CACHED_TASKS reads it.",
    "DATA_DIR": "The folder of the published data sets; without it, those that TFDS has prepared, "
    "or fetches; C4 and mC4 are never fetched.",
    "DEVICE_TYPE": "The devices of which the mesh is made; 'CPU' by default.",
    "VOCABULARY_PATH": "The SentencePiece model of the tasks. By default that of the checkpoint's "
    "run, or else T5's; mC4's tasks use mT5's, and those on docstrings their own.",
}
_MAX_FILES = 2


def write(folder: Path) -> None:
    """Writes reference.md into `folder`."""
    (folder / "reference.md").write_text("\n".join(lines()) + "\n", encoding="utf-8")


def lines() -> Iterator[str]:
    """The lines of the page."""
    ours = _ours()
    yield from _INTRO.splitlines()
    yield from _MACROS.splitlines()
    yield ""
    yield from markdown([("macro", "sets", "value", "what it is"), *_macro_rows(ours)])
    for room, members in _rooms(ours).items():
        yield from ("", f"## {room}", "", _sentence(_docstring_of_room(room)))
        for configurable in members:
            yield ""
            yield from _section(configurable, ours)


def _ours() -> dict[str, Configurable]:
    """Name -> configurable, of those declared in the project's modules."""
    source = configurables.project_source()
    return {c.name: c for c in source.configurables if c.module in configurables.project_modules()}


def _rooms(ours: Mapping[str, Configurable]) -> dict[str, list[Configurable]]:
    found = defaultdict(list)
    for configurable in ours.values():
        found[configurable.module.split(".")[1]].append(configurable)
    return dict(sorted(found.items()))


def _docstring_of_room(room: str) -> str:
    path = configurables.project_modules()[f"{configurables.PACKAGE}.{room}"]
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _section(configurable: Configurable, ours: Mapping[str, Configurable]) -> Iterator[str]:
    yield f"### `{_written(configurable)}`"
    yield ""
    inherited = [f"`{base}`" for base in configurable.bases if base in ours]
    also = f" It also takes the parameters of {' and '.join(inherited)}." if inherited else ""
    about = _sentence(ast.get_docstring(configurable.declaration) or "")
    yield f"{about}{also} ({_link(configurable)})"
    rows = list(_parameter_rows(configurable, ours))
    if rows:
        yield ""
        yield from markdown([("parameter", "value", "default", "what it is"), *rows])


def _link(configurable: Configurable) -> str:
    name = configurable.module.removeprefix(f"{configurables.PACKAGE}.").replace(".", "/")
    # The link switch_tf/tasks is not followed on GitHub.
    path = f"{name}.py" if name.startswith("tasks/") else f"switch_tf/{name}.py"
    return f"[{path}](../{path})"


def _written(configurable: Configurable) -> str:
    """The shortest name that is not ambiguous, as gin files write it."""
    return _known().minimal_selector(configurable.selector)


@functools.cache
def _known() -> SelectorMap:
    return configurables.selector_map(configurables.project_source())


def _parameter_rows(
    configurable: Configurable, ours: Mapping[str, Configurable]
) -> Iterator[tuple[str, ...]]:
    described = descriptions(configurable.declaration)
    for name, _, default in configurables.declared(configurable.declaration):
        # Missing, or without an annotation, it is something that only code passes.
        annotation = configurable.parameters.get(name, Any)
        value = _escaped(rules.wanted(_settable(annotation)))
        if annotation is not Any:
            shown = _set_by(configurable, name, ours) or _default(configurable, name, default)
            yield f"`{name}`", value, shown, _sentence(described[name])


def _set_by(configurable: Configurable, name: str, ours: Mapping[str, Configurable]) -> str:
    """What sets a parameter that the model passes; empty for others."""
    owners = (configurable, *(ours[base] for base in configurable.bases if base in ours))
    marks = (rules.mark(owner.parameters.get(name), rules.SetBy) for owner in owners)
    setting = next((mark.setting for mark in marks if mark), "")
    names = setting.split(" or ") if setting else []
    is_itself = f"{configurable.name}.{name}" in names
    return "" if is_itself or not names else "from " + " or ".join(f"`{n}`" for n in names)


def _default(configurable: Configurable, name: str, default: ast.expr | None) -> str:
    if default is None or name in configurable.required:
        return "required"
    value = None
    if not isinstance(default, ast.Constant):
        path = configurables.project_modules()[configurable.module]
        value = annotations.Names.of(path.read_text(encoding="utf-8")).annotation(default)
    # A constant by its value; classes and functions by their names.
    is_constant = isinstance(value, str | int | float)
    return f"`{_escaped(repr(value) if is_constant else ast.unparse(default))}`"


def _settable(annotation: Any) -> Any:
    """An annotation without the classes of other libraries, which gin cannot make."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation
    kept = [
        part
        for part in typing.get_args(annotation)
        if annotations.is_class(part) or not isinstance(part, annotations.StandIn)
    ]
    return typing.Union[tuple(kept)]  # noqa: UP007


def _macro_rows(ours: Mapping[str, Configurable]) -> Iterator[tuple[str, ...]]:
    files = {name: gin_files.read([name]) for name in _runnable()}
    readers = _readers(files)
    by_program = configurables.project_source().macros
    for name in sorted({*readers, *(name for name in by_program if name in _READ_BY_PROGRAM)}):
        parameters = readers.get(name, [])
        text = _READ_BY_PROGRAM.get(name) or _description(parameters[0], ours)
        sets = ", ".join(f"`{parameter}`" for parameter in parameters) or "the program"
        yield f"`{name}`", sets, _values(name, files), _escaped(text)


def _runnable() -> list[str]:
    """The files of runs, layouts and models, without what they include."""
    return [
        str(path.relative_to(gin_files.GIN_FOLDER))
        for room in ("runs", "layouts", "models")
        for path in sorted((gin_files.GIN_FOLDER / room).glob("*.gin"))
        if path.name != "common.gin"
    ]


def _readers(files: Mapping[str, Settings]) -> dict[str, list[str]]:
    """Macro -> the parameters that it sets."""
    found = defaultdict(dict)
    for settings in files.values():
        for key, (value, _) in settings.bindings.items():
            for part in gin_files.parts(value):
                if isinstance(part, Macro) and part != REQUIRED:
                    found[part.name][gin_files.written(key)] = True
    return {name: list(parameters) for name, parameters in found.items()}


def _description(parameter: str, ours: Mapping[str, Configurable]) -> str:
    *_, name, own = parameter.split(".")
    return _sentence(descriptions(ours[name].declaration)[own])


def _values(name: str, files: Mapping[str, Settings]) -> str:
    """The values of a macro, each with the files that give it."""
    by_value = defaultdict(list)
    for file, settings in files.items():
        if name in settings.macros:
            value = settings.macros[name].value
            by_value["required" if value == REQUIRED else f"`{gin_files.text(value)}`"].append(file)
    return "; ".join(f"{value} in {_some(names)}" for value, names in by_value.items())


def _some(names: list[str]) -> str:
    further = len(names) - _MAX_FILES
    more = f" and {further} more" if further > 0 else ""
    return ", ".join(names[:_MAX_FILES]) + more


def descriptions(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str]:
    """Parameter -> its text in the docstring of a function, of a class or of its constructor."""
    nodes = dict.fromkeys((node, configurables.constructor(node)))
    found = {}
    for docstring in (ast.get_docstring(n) for n in nodes if n is not None):
        # `Args` stand behind `Attributes`, and say more of what both have.
        sections = re.findall(r"^(?:Args|Attributes):\n((?: .*\n?|\n)+)", docstring or "", re.M)
        for entry in re.split(r"^  (?=\S)", "".join(sections), flags=re.M):
            names, colon, text = entry.partition(":")
            for name in names.split(", ") if colon else ():
                found[name] = " ".join(text.split())
    return found


def _sentence(text: str) -> str:
    """The first sentence of a text, with a capital letter and a full stop."""
    text = " ".join(text.split("\n\n")[0].split())
    text = re.split(r"(?<=\.) (?=[A-Z0-9`'\"])(?<!Fig\. )(?<!Sec\. )(?<!Eq\. )", text)[0]
    # Symbols, such as s and α, keep their case.
    if re.match("[a-z]{2}|a ", text):
        text = text[0].upper() + text[1:]
    return _escaped(text.rstrip(".") + "." * bool(text))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
