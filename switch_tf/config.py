"""Gin configuration as in T5X, with one-line errors that name the file and line, or the flag.

`precheck` reads the same files as `load` but needs no TensorFlow: it finds misspelt names and
missing values before the slow start.
"""

import contextlib
import dataclasses
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
from gin.selector_map import SelectorMap

from switch_tf import configurables, gin_checks, gin_files, gin_order, rules, user_code
from switch_tf.errors import UserError
from switch_tf.gin_files import Reference, Setting, Settings, parts

_OF_GIN = (ValueError, LookupError, TypeError, AttributeError, NameError, ImportError, SyntaxError)
# What gin adds to an error.
_GIN_PLACE = r'In file "(.+)", line (\d+)'
_NOT_FOUND = "; run where it can be imported, or set PYTHONPATH"

gin.add_config_file_search_path(str(gin_files.GIN_FOLDER))


class Values(dict):
    """Macro name or `configurable.parameter` -> value, for values that are literals.

    Attributes:
      called: `configurable.parameter` -> the name under which the user set it, such as that of a
        macro.
    """

    def __init__(self, settings: Settings):
        super().__init__(settings.literals())
        self.called = {
            gin_files.short(key): settings.origin(key)[0] for key in settings.bindings if not key[0]
        }


def precheck(files: Sequence[str], bindings: Sequence[str] = ()) -> Values:
    """Checks gin files and flags as far as possible without importing what they configure.

    Args:
      files: values of `--gin_file`, looked up in the working directory, then in the project's
        `gin/`.
      bindings: `NAME=value` or `name.parameter=value`, for `--gin.NAME=value`.

    Returns:
      The values that are given.

    Raises:
      UserError: a file is not found; there is a syntax error; a configurable or parameter is
        unknown, or the model overrides it; two files give a setting different values; a macro or a
        required parameter has no value; a flag sets a macro that nothing reads; or a value does not
        match its parameter's annotation.
    """
    return Values(_checked(files, bindings).settings)


def names(files: Sequence[str], bindings: Sequence[str] = ()) -> tuple[set[str], set[str]]:
    """The parameters set, as `configurable.parameter`, and the configurables used as values.

    Args:
      files: see `precheck`.
      bindings: see `precheck`.

    Raises:
      UserError: a file is not found, there is a syntax error, or a configurable or parameter is
        unknown or overridden by the model.
    """
    settings = _named(files, bindings).settings
    bound = set(map(gin_files.short, settings.bindings))
    every = (part for value, _ in settings.all() for part in parts(value))
    references = (part.name for part in every if isinstance(part, Reference))
    return bound, {name.rpartition("/")[2].rpartition(".")[2] for name in references}


def lacking(files: Sequence[str], bindings: Sequence[str] = ()) -> dict[str, Setting]:
    """The parameters that a file requires and nothing gives, and the name to give each by.

    Args:
      files: see `precheck`.
      bindings: see `precheck`.

    Returns:
      `configurable.parameter` -> the name that the user has to set, and where it is required.

    Raises:
      UserError: see `names`; or two files give a setting different values.
    """
    settings = _settled(files, bindings).settings
    origins = {gin_files.short(key): settings.origin(key) for key in settings.bindings}
    return {
        parameter: Setting(name, where)
        for parameter, (name, (value, where)) in origins.items()
        if value == gin_files.REQUIRED
    }


def load(files: Sequence[str], bindings: Sequence[str] = ()) -> None:
    """Loads gin files and flags, replacing any previous configuration.

    Imports the project's modules that define the configurables used, and MIXTURE_OR_TASK_MODULE.
    This imports TensorFlow, so `runtime.start` must come first.

    Args:
      files: see `precheck`.
      bindings: see `precheck`.

    Raises:
      UserError: see `precheck`; or gin itself reports an error.
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
            gin.parse_config_file(name)
    for statement in checked.after_files:
        with _one_line(statement):
            gin.parse_config(statement)
    for binding in bindings:
        with _one_line(getattr(binding, "where", f"--gin.{binding}")):
            gin.parse_config(binding)
    if module:
        # Reading it as a macro records it in the operative config, which needs it to run again.
        macro("MIXTURE_OR_TASK_MODULE", annotation=rules.Name)


@contextlib.contextmanager
def loaded(files: Sequence[str], bindings: Sequence[str] = ()) -> Iterator[None]:
    """Context in which gin has the configuration that `load` loads; none is left behind it.

    Raises:
      UserError: see `load`.
    """
    try:
        load(files, bindings)
        yield
    finally:
        gin.clear_config()


def macro(name: str, *default: Any, annotation: Any = Any) -> Any:
    """The value of a loaded macro, which is then recorded as used in the operative config.

    Args:
      name: the macro's name, such as `TRAIN_STEPS`.
      *default: at most one value, returned if the macro is not set.
      annotation: what the macro may be, as for a parameter; see `rules`. `precheck` reads it from
        the source and checks the macro before TensorFlow starts.

    Raises:
      UserError: the macro is not set, and there is no default; or its value is invalid.
    """
    try:
        gin.query_parameter(f"%{name}")
    except ValueError:
        if default:
            return default[0]
        raise UserError(f"{name} is not set: pass --gin.{name}=VALUE") from None
    value = gin.get_configurable(f"{name}/gin.macro")()
    # A default of None makes the annotation optional, as that of a parameter.
    if value is not None or None not in default:
        rules.check(name, value, annotation)
    return value


def operative_config() -> str:
    """The parameters used so far, as a gin file that reproduces the run by itself."""
    return gin.operative_config_str()


def macros() -> dict[str, Any]:
    """Name -> value of the macros that the operative config has so far."""
    used = gin.config._OPERATIVE_CONFIG.items()
    return {name: values["value"] for (name, kind), values in used if kind == "gin.macro"}


@dataclasses.dataclass
class _Resolution:
    """Settings whose names have been checked.

    Attributes:
      settings: the settings as read; after all checks, as resolved by `gin_order.settle`.
      used: the configurables that the settings name.
      source: the declarations of all known modules.
      known: partial name -> `Configurable`.
      after_files: statements for gin to read after the files; see `gin_order.settle`.
    """

    settings: Settings
    used: list[configurables.Configurable]
    source: configurables.Source
    known: SelectorMap
    after_files: Sequence[str] = ()


def _named(files: Sequence[str], bindings: Sequence[str]) -> _Resolution:
    settings = gin_files.read(files, bindings)
    source, open_ended = _known_source(settings)
    known = configurables.selector_map(source)
    used = gin_checks.check_names(settings, source, known, open_ended)
    return _Resolution(settings, used, source, known)


def _settled(files: Sequence[str], bindings: Sequence[str]) -> _Resolution:
    named = _named(files, bindings)

    def complete(name: str) -> str:
        matches = named.known.matching_selectors(name)
        return matches[0] if len(matches) == 1 else name

    named.after_files = gin_order.settle(named.settings, complete)
    return named


def _checked(files: Sequence[str], bindings: Sequence[str]) -> _Resolution:
    checked = _settled(files, bindings)
    gin_checks.check_macros(checked.settings, checked.source)
    gin_checks.check_required(checked.settings, checked.source, checked.known)
    gin_checks.check_values(checked.settings, checked.source, checked.known)
    # Last: what is no valid reference needs no values.
    gin_checks.check_needed(checked.settings, checked.known)
    return checked


def _known_source(settings: Settings) -> tuple[configurables.Source, bool]:
    """The declarations of the project and imported modules, and whether there may be more."""
    sources, open_ended = [configurables.project_source()], False
    imports = list(settings.imports)
    module = settings.literals().get("MIXTURE_OR_TASK_MODULE")
    if module is not None:
        where = settings.macros["MIXTURE_OR_TASK_MODULE"].where
        rules.check(gin_checks.place("MIXTURE_OR_TASK_MODULE", where), module, rules.Name)
        imports.append(Setting(module, where))
    for module, where in imports:
        first = str(module).split(".")[0]
        if first == "__gin__":
            # With dynamic registration, any name of an imported module may be configured.
            open_ended = True
            continue
        check_module_name(str(module), where)
        with _working_directory_on_path():
            source = configurables.module_source(str(module))
        if source is None:
            ours = configurables.modules_called(str(module))
            hint = f"; did you mean {' or '.join(ours)}?" if ours else ""
            raise UserError(f"{where}: no module '{module}'{hint or _NOT_FOUND}")
        if first != configurables.PACKAGE:
            sources.append(source)
            # An external module may import others that register more, so gin has the last word.
            open_ended = True
    return configurables.merge(sources), open_ended


@contextlib.contextmanager
def _working_directory_on_path():
    """Adds the working directory to the module path, as `python -m` does but scripts do not."""
    before = list(sys.path)
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def check_module_name(module: str, where: str) -> None:
    """Checks that a module of the project is named in full.

    Args:
      module: its dotted name.
      where: the place that names the module, for the error.

    Raises:
      UserError: it is named without the package, or as a file; the message says its name.
    """
    if module.endswith(".py"):
        own = module.removesuffix(".py").strip("/").replace("/", ".")
        raise UserError(f"{where}: '{module}' is a file: name the module, such as '{own}'")
    with _working_directory_on_path():
        own_name = configurables.project_name(module)
    if own_name:
        raise UserError(f"{where}: the module '{module}' is called '{own_name}': use that name")


def import_module(module: str, where: str) -> None:
    """Imports a module, which may be in the working directory.

    Args:
      module: its dotted name.
      where: the place that names the module, for the error.

    Raises:
      UserError: there is no such module, it is not Python, or code in it fails, if it is a
        user's.
    """
    with _working_directory_on_path():
        try:
            importlib.import_module(module)
        except SyntaxError as error:
            # Of a file with a NUL, Python says neither.
            place = f"{error.filename}:{error.lineno}: " if error.filename else ""
            raise UserError(f"{where}: cannot import '{module}': {place}{error.msg}") from error
        except (Exception, SystemExit) as error:
            place = user_code.place_of(error)
            if place is None and isinstance(error, ModuleNotFoundError):
                place = str(error)
            if place is None or isinstance(error, UserError):
                raise
            raise UserError(f"{where}: cannot import '{module}': {place}") from error


class _Reader:
    """Opens files for gin itself, as `gin_files` finds them and reads them."""

    def __init__(self):
        self._folders: list[Path] = []

    def _find(self, name: str) -> Path:
        return gin_files.find(name, "--gin_file", self._folders[-1] if self._folders else None)

    def is_readable(self, name: str) -> bool:
        """Whether there is a file that the file being read includes by that name."""
        try:
            return bool(self._find(name))
        except UserError:
            return False

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[io.StringIO]:
        """Context in which a file is read, and its includes are looked for beside it, too."""
        path = self._find(name)
        file = io.StringIO(gin_files.contents(path, "--gin_file"))
        # For gin's errors.
        file.name = str(path)
        self._folders.append(path.parent)
        try:
            yield file
        finally:
            self._folders.pop()


@contextlib.contextmanager
def _files_only():
    """Has gin find and read files as `gin_files` does.

    gin by itself would also look for includes in Python packages, and fail if the working
    directory has a folder `runs`, which it takes for a package.
    """
    readers, reader = list(gin.config._FILE_READERS), _Reader()
    gin.config._FILE_READERS[:] = [(reader.opened, reader.is_readable)]
    try:
        yield
    finally:
        gin.config._FILE_READERS[:] = readers


@contextlib.contextmanager
def _one_line(where: str):
    """Turns gin's multi-line errors into one line."""
    try:
        with _working_directory_on_path():
            yield
    except (*_OF_GIN, SystemExit) as error:
        place = re.search(_GIN_PLACE, str(error))
        where = f"{gin_files.display(Path(place[1]))}:{place[2]}" if place else where
        if in_user_code := user_code.place_of(error):
            raise UserError(f"{where}: {re.split(_GIN_PLACE, in_user_code)[0].strip()}") from error
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"{where}: {lines[0].strip().removesuffix('.')}{_nearest_of_gin(lines[0])}"
        ) from error


def _nearest_of_gin(line: str) -> str:
    """Names like the one that gin does not know, for the end of an error; may be empty."""
    unknown = re.search(r"No configurable matching (?:reference )?'@?([^'(]+)", line)
    known = (selector.rpartition(".")[2] for selector, _ in gin.config._REGISTRY.items())
    return gin_files.nearest(unknown[1].rpartition(".")[2], known) if unknown else ""
