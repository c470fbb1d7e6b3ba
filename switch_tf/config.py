"""Gin as T5X users know it, with errors of one line that name the file and line, or the flag.

`precheck` reads the same files as `load` but needs no TensorFlow: it finds what is misspelt or
missing before the long start.
"""

import contextlib
import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
from gin.selector_map import SelectorMap

from switch_tf import annotations, configurables, gin_files, gin_order, rules
from switch_tf.errors import UserError
from switch_tf.gin_files import (
    REQUIRED,
    Macro,
    Reference,
    Setting,
    Settings,
    nearest,
    parts,
    read_by,
    set_by,
)

gin.add_config_file_search_path(str(gin_files.GIN_FOLDER))


class Given(dict):
    """Value by macro name or `configurable.parameter`, of those whose value is a literal.

    Attributes:
      called: `configurable.parameter` -> what the user set, such as the macro that it is set to.
    """

    def __init__(self, settings: Settings):
        super().__init__(settings.literals())
        self.called = {
            gin_files.short(key): settings.origin(key)[0] for key in settings.bindings if not key[0]
        }


def precheck(files: Sequence[str], bindings: Sequence[str] = ()) -> Given:
    """Checks gin files and flags as far as that goes without importing what they configure.

    Args:
      files: as in `--gin_file`; found in the working directory, then in the project's `gin/`.
      bindings: `NAME=value` or `name.parameter=value`, as in `--gin.NAME=value`.

    Returns:
      What is given.

    Raises:
      UserError: a file not found, a syntax error, an unknown configurable or parameter, one that
        the model sets anyway, a setting that two files give different values, a macro without a
        value, a required value not given, a flag for a macro that nothing reads, a value that is
        not as the annotation of its parameter says.
    """
    return Given(_checked(files, bindings).settings)


def names(files: Sequence[str], bindings: Sequence[str] = ()) -> tuple[set[str], set[str]]:
    """What is set, as `configurable.parameter`, and the configurables that values refer to.

    Args:
      files: as for `precheck`.
      bindings: as for `precheck`.

    Raises:
      UserError: a file not found, a syntax error, an unknown configurable or parameter, one that
        the model sets anyway.
    """
    settings = _named(files, bindings).settings
    bound = set(map(gin_files.short, settings.bindings))
    every = (part for value, _ in settings.all() for part in parts(value))
    references = (part.name for part in every if isinstance(part, Reference))
    return bound, {name.rpartition("/")[2].rpartition(".")[2] for name in references}


def load(files: Sequence[str], bindings: Sequence[str] = ()) -> None:
    """Makes gin's configuration of files and flags; what was loaded before is forgotten.

    The project's modules that define the named configurables are imported, and so is
    `MIXTURE_OR_TASK_MODULE`; this imports TensorFlow, so `runtime.start` comes first.

    Args:
      files: as for `precheck`.
      bindings: as for `precheck`.

    Raises:
      UserError: as `precheck`, and for what only gin itself can tell.
    """
    checked = _checked(files, bindings)
    settings, used = checked.settings, checked.used
    gin.clear_config()
    for module in sorted({c.module for c in used if c.module}):
        import_module(module, f"configurables of {module}")
    module = settings.literals().get("MIXTURE_OR_TASK_MODULE")
    if module:
        import_module(module, settings.macros["MIXTURE_OR_TASK_MODULE"].where)
    for name in files:
        with _one_line(name), _files_only():
            gin.parse_config_file(str(gin_files.find(name, "--gin_file")))
    for statement in checked.after_files:
        with _one_line(statement):
            gin.parse_config(statement)
    for binding in bindings:
        with _one_line(f"--gin.{binding}"):
            gin.parse_config(binding)
    if module:
        # Read as a macro, it is part of the operative config, which needs it to run again.
        macro("MIXTURE_OR_TASK_MODULE")


def macro(name: str, *default: Any) -> Any:
    """Value of the macro `name` in what was loaded; it then counts as used in the operative config.

    Args:
      name: such as `TRAIN_STEPS`.
      *default: at most one, the value when the macro is not set.

    Raises:
      UserError: not set, and no default.
    """
    try:
        gin.query_parameter(f"%{name}")
    except ValueError:
        if default:
            return default[0]
        raise UserError(f"{name} is not set: pass --gin.{name}=VALUE") from None
    return gin.get_configurable(f"{name}/gin.macro")()


def operative_config() -> str:
    """The parameters in use so far, as a gin file that by itself configures the same run."""
    return gin.operative_config_str()


@dataclasses.dataclass
class _Checked:
    """Settings whose names were checked.

    Attributes:
      settings: as read, or, where all was checked, as they hold.
      used: the configurables that they name.
      source: what is declared.
      known: partial names -> `Configurable`.
      after_files: statements that gin is to read after the files; see `gin_order.settle`.
    """

    settings: Settings
    used: list[configurables.Configurable]
    source: configurables.Source
    known: SelectorMap
    after_files: Sequence[str] = ()


def _named(files: Sequence[str], bindings: Sequence[str]) -> _Checked:
    settings = gin_files.read(files, bindings)
    source, open_ended = _known_source(settings)
    known = configurables.selector_map(source)
    used = _check_names(settings, source, known, open_ended)
    return _Checked(settings, used, source, known)


def _checked(files: Sequence[str], bindings: Sequence[str]) -> _Checked:
    checked = _named(files, bindings)

    def complete(name: str) -> str:
        matches = checked.known.matching_selectors(name)
        return matches[0] if len(matches) == 1 else name

    checked.after_files = gin_order.settle(checked.settings, complete)
    _check_macros(checked.settings, checked.source)
    _check_values(checked.settings, checked.known)
    return checked


def _known_source(settings: Settings) -> tuple[configurables.Source, bool]:
    """What is declared by the project and by imported modules; whether there may be more."""
    sources, open_ended = [configurables.project_source()], False
    imports = list(settings.imports)
    module = settings.literals().get("MIXTURE_OR_TASK_MODULE")
    if module:
        imports.append(Setting(module, settings.macros["MIXTURE_OR_TASK_MODULE"].where))
    for module, where in imports:
        first = str(module).split(".")[0]
        if first == "__gin__":
            # Dynamic registration: any name of an imported module may be configured.
            open_ended = True
            continue
        with _working_directory_on_path():
            source = configurables.module_source(str(module))
            own_name = configurables.project_name(str(module))
        if own_name:
            raise UserError(f"{where}: the module '{module}' is called '{own_name}': write it so")
        if source is None:
            raise UserError(
                f"{where}: no module '{module}'; run where it can be imported, or set PYTHONPATH"
            )
        if first != configurables.PACKAGE:
            sources.append(source)
            # A foreign module may import others that register more: gin then has the last word.
            open_ended = True
    return configurables.merge(sources), open_ended


def _check_names(
    settings: Settings, source: configurables.Source, known: SelectorMap, open_ended: bool
) -> list[configurables.Configurable]:
    used = []
    has_model = any(name.endswith(configurables.MODEL) for _, name, _ in settings.bindings)

    def look_up(name: str, where: str) -> configurables.Configurable | None:
        matches = known.matching_selectors(name)
        if len(matches) > 1:
            raise UserError(
                f"{where}: '{name}' is ambiguous; write one of {', '.join(sorted(matches))}"
            )
        if not matches and not open_ended:
            short = [c.name for c in source.configurables]
            raise UserError(
                f"{where}: no configurable '{name}'{nearest(name.rpartition('.')[2], short)}; one "
                "of your own needs 'import MODULE' in a gin file, or MIXTURE_OR_TASK_MODULE"
            )
        used.extend(known[m] for m in matches)
        return known[matches[0]] if matches else None

    for name, where in settings.blocks:
        look_up(name, where)
    for (_, name, parameter), (_, where) in settings.bindings.items():
        found = look_up(name, where)
        takes = found.parameters if found else None
        if takes is not None and parameter not in takes:
            raise UserError(
                f"{where}: '{name}' has no parameter '{parameter}'"
                + (nearest(parameter, takes) or f"; it has {', '.join(sorted(takes)) or 'none'}")
            )
        given = dict(found.given) if found and has_model else {}
        if parameter in given:
            raise UserError(
                f"{where}: the model gives '{name}' its {parameter}: set {given[parameter]}"
            )
    for value, where in settings.all():
        for part in parts(value):
            if isinstance(part, Reference):
                look_up(part.name.rpartition("/")[2], where)
    return used


def _check_macros(settings: Settings, source: configurables.Source) -> None:
    read = set(source.macros)
    for value, where in settings.all():
        for part in parts(value):
            if not isinstance(part, Macro):
                continue
            name = part.name
            read.add(name)
            # Other dotted names are constants of modules, which only gin knows.
            if "." not in name and name not in settings.macros and name not in source.constants:
                raise UserError(
                    f"{where}: %{name} has no value: pass --gin.{name}=VALUE"
                    + (nearest(name, settings.macros) or set_by(name))
                )
    for name, where in settings.flags.items():
        if name not in read and name not in settings.declared:
            known = read | settings.declared
            hint = read_by(name) or nearest(name, known)
            raise UserError(f"{where}: nothing reads a macro '{name}'{hint}")
    for key, (value, where) in settings.entries().items():
        if value == REQUIRED:
            name = gin_files.written(key)
            raise UserError(f"{where}: {name} is required: pass --gin.{name}=VALUE")


def _check_values(settings: Settings, known: SelectorMap) -> None:
    """Checks values against the annotations of the parameters that they reach."""

    def look_up(name: str) -> configurables.Configurable | None:
        matches = known.matching_selectors(name)
        return known[matches[0]] if matches else None

    # Sorted, so that every order of the files is told the same.
    for key in sorted(settings.bindings):
        found = look_up(key[1])
        annotation = (found and found.parameters or {}).get(key[2], Any)
        name, (value, where) = settings.origin(key)
        # A flag is its own place.
        place = where if where.startswith("--gin.") else f"{where}: {name}"
        if isinstance(value, Reference):
            referred = look_up(value.name.rpartition("/")[2])
            if referred and not _may_be(referred, value.evaluate, annotation):
                other = value._replace(evaluate=not value.evaluate)
                fits = _may_be(referred, other.evaluate, annotation)
                mend = gin_files.text(other) if fits else rules.wanted(annotation)
                raise UserError(f"{place}={gin_files.text(value)}: give {mend}")
            continue
        try:
            value = settings.literal(value)
        except (LookupError, RecursionError):
            continue
        rules.check(place, value, annotation)


# What a function is, and what an instance of a class that is no function.
_FUNCTION, _OBJECT = print, object()


def _may_be(referred: configurables.Configurable, is_called: bool, annotation: Any) -> bool:
    """Whether `@name`, or if it `is_called` `@name()`, may stand for what is annotated so."""
    is_ours = (referred.module or "").partition(".")[0] == configurables.PACKAGE
    makes = referred.makes if is_ours else Any
    if not is_called:
        # What makes a schedule, and a schedule, are functions both.
        return annotation is Any or makes != annotation and rules.fits(_FUNCTION, annotation)
    if rules.fits(_FUNCTION, makes) and not rules.fits(_OBJECT, makes):
        return rules.fits(_FUNCTION, annotation)
    return not isinstance(makes, annotations.Unread) or rules.fits(_OBJECT, annotation)


@contextlib.contextmanager
def _working_directory_on_path():
    """A console script, unlike `python -m`, does not look for modules where it is called."""
    before = list(sys.path)
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def import_module(module: str, where: str) -> None:
    """Imports a module, also from the working directory.

    Args:
      module: its dotted name.
      where: what gave the name, for the error.

    Raises:
      UserError: no such module.
    """
    with _working_directory_on_path():
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"{where}: cannot import '{module}': {error}") from error


@contextlib.contextmanager
def _files_only():
    """Keeps gin from looking for includes in Python packages as well.

    `gin_files` does not, and a folder `runs` in the working directory passes for a package of that
    name, at which gin fails.
    """
    readers = list(gin.config._FILE_READERS)
    gin.config._FILE_READERS[:] = readers[:1]
    try:
        yield
    finally:
        gin.config._FILE_READERS[:] = readers


@contextlib.contextmanager
def _one_line(where: str):
    """Turns gin's errors, several lines long, into one."""
    try:
        with _working_directory_on_path():
            yield
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, SyntaxError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        place = re.search(r'In file "(.+)", line (\d+)', str(error))
        where = f"{gin_files.display(Path(place[1]))}:{place[2]}" if place else where
        raise UserError(f"{where}: {lines[0].strip()}") from error
