"""Reads gin files and flags into plain values, with the place where each was set.

gin itself resolves every name while reading, so it needs all modules imported; here names stay
names. Files are looked up in the working directory, then in the project's `gin/`.
"""

import contextlib
import dataclasses
import difflib
import functools
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from switch_tf import storage
from switch_tf.errors import UserError


def _find_gin_folder() -> Path:
    source_tree = Path(__file__).parent.parent / "gin"
    installed = Path(sys.prefix) / "share" / "switch-tf" / "gin"
    # Once installed, the `gin` next to switch_tf is gin-config: look for our `models` in it.
    return source_tree if (source_tree / "models").is_dir() else installed


GIN_FOLDER = _find_gin_folder()


class Macro(NamedTuple):
    """`%name` in a value."""

    name: str


class Reference(NamedTuple):
    """`@name` in a value, or `@name()` if `evaluate`."""

    name: str
    evaluate: bool = False


REQUIRED = Macro("gin.REQUIRED")


class Setting(NamedTuple):
    """A value and the place where it was set: `file:line`, or the flag."""

    value: Any
    where: str


# (scope, configurable, parameter). As in gin, a macro is a parameter whose scope is its name.
Key = tuple[str, str, str]
MACRO = "gin.macro"


@dataclasses.dataclass
class Settings:
    """The contents of gin files and flags, before any import; later settings win.

    Attributes:
      bindings: (scope, configurable, parameter) -> setting.
      macros: name -> setting.
      blocks: configurables for which a block `name:` was opened.
      imports: imported modules.
      flags: names of macros set by a flag.
      declared: names of macros set by the user's own files.
      name: the file's name, if these are the settings of a single `--gin_file`.
      includes: names of the files that it includes.
      files: the settings of each `--gin_file` with its includes, in order.
    """

    bindings: dict[Key, Setting] = dataclasses.field(default_factory=dict)
    macros: dict[str, Setting] = dataclasses.field(default_factory=dict)
    blocks: list[Setting] = dataclasses.field(default_factory=list)
    imports: list[Setting] = dataclasses.field(default_factory=list)
    flags: dict[str, str] = dataclasses.field(default_factory=dict)
    declared: set[str] = dataclasses.field(default_factory=set)
    name: str = ""
    includes: set[str] = dataclasses.field(default_factory=set)
    files: list["Settings"] = dataclasses.field(default_factory=list)

    def entries(self) -> dict[Key, Setting]:
        """All settings as written, with a macro as `(its name, MACRO, "value")`."""
        macros = {(name, MACRO, "value"): setting for name, setting in self.macros.items()}
        return self.bindings | macros

    def all(self) -> list[Setting]:
        """All settings of parameters and macros."""
        return [*self.bindings.values(), *self.macros.values()]

    def origin(self, key: Key) -> tuple[str, Setting]:
        """Follows `%macro`s to the name under which a parameter was set, and its setting."""
        name, setting, seen = written(key), self.bindings[key], set()
        while isinstance(setting.value, Macro) and setting.value.name in self.macros.keys() - seen:
            name = setting.value.name
            seen.add(name)
            setting = self.macros[name]
        return name, setting

    def literals(self) -> dict[str, Any]:
        """Macro name or `configurable.parameter` -> value, with `%macros` filled in.

        Leaves out values that contain an `@reference`, and scoped parameters.
        """
        values = {name: setting.value for name, setting in self.macros.items()}
        for (scope, name, parameter), setting in self.bindings.items():
            if not scope:
                values[short((scope, name, parameter))] = setting.value
        found = {}
        for name, value in values.items():
            with contextlib.suppress(LookupError, RecursionError):
                found[name] = self.literal(value)
        return found

    def literal(self, value: Any) -> Any:
        """A value with its `%macros` filled in.

        Raises:
          LookupError: the value contains an `@reference` or an unset macro.
          RecursionError: a macro refers to itself.
        """
        if isinstance(value, Macro):
            return self.literal(self.macros[value.name].value)
        if isinstance(value, Reference):
            raise LookupError(value.name)
        if isinstance(value, dict):
            return {self.literal(k): self.literal(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.literal(v) for v in value)
        return value


class Statement(str):
    """A statement for gin that comes from elsewhere than a flag, to stand among the bindings.

    Args:
      text: the statement.
      where: its place, `file:line`.
    """

    def __new__(cls, text: str, where: str):
        made = super().__new__(cls, text)
        made.where = where
        return made


def read(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> Settings:
    """Reads files and then flags; see `config.precheck`.

    Raises:
      UserError: a file is not found or includes itself, or there is a syntax error.
    """
    settings = Settings()
    for name in gin_files:
        settings.files.append(Settings(name=name))
        for statement, where in _file_statements(name, "--gin_file"):
            _add(statement, where, settings)
            _add(statement, where, settings.files[-1])
    for binding in bindings:
        flag = "--gin." + binding.partition("=")[0].strip()
        where = binding.where if isinstance(binding, Statement) else flag
        for statement, place in read_statements(binding, where):
            _add(statement, place, settings)
    return settings


def read_text(text: str, where: str) -> Settings:
    """Reads the text of a file, without what it includes.

    Args:
      text: the file's text.
      where: its name, for errors and the places of settings.

    Raises:
      UserError: there is a syntax error.
    """
    settings = Settings(name=where)
    for statement, place in read_statements(io.StringIO(text), where):
        _add(statement, place, settings)
    return settings


class _Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as names, which gin would resolve."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, scoped_name):
        return Macro(scoped_name)


def read_statements(text_or_file, where: str) -> Iterator[tuple[Any, str]]:
    """Yields the statements of gin text, each with its place.

    Args:
      text_or_file: a string or an open file.
      where: the file or flag, for errors.

    Raises:
      UserError: there is a syntax error.
    """
    is_file = hasattr(text_or_file, "readline")
    try:
        for statement in config_parser.ConfigParser(text_or_file, _Delegate()):
            yield statement, f"{where}:{statement.location.line_num}" if is_file else where
    except (SyntaxError, tokenize.TokenError) as error:
        raise _syntax_error(error, where, is_file) from error


def _syntax_error(error: Exception, where: str, is_file: bool) -> UserError:
    message = str(error.args[0]).splitlines()[-1].strip().rstrip(".")
    place = error.args[1] if len(error.args) > 1 else ()
    if not is_file:
        return UserError(
            f"{where}: not a gin value: {message}; a string needs its own quotes: "
            "--gin.NAME=\"'text'\""
        )
    if isinstance(error, tokenize.TokenError):
        return UserError(f"{where}:{place[0]}: syntax error: {message}; is a bracket left open?")
    line = (place[3] or "").strip()
    return UserError(f"{where}:{place[1]}: syntax error: {message}, in: {line}")


def find(name: str, where: str) -> Path:
    """Finds a gin file by name.

    Raises:
      UserError: it is remote; or not found, and the message gives `where` and the places searched.
    """
    if storage.is_remote(name):
        raise UserError(
            f"{where}: '{name}' is remote, but gin files have to be local: copy it, and the "
            "run.json beside it if it is a run's"
        )
    for folder in (Path(), GIN_FOLDER):
        if (folder / name).is_file():
            return folder / name
    there = sorted(str(p.relative_to(GIN_FOLDER)) for p in GIN_FOLDER.rglob("*.gin"))
    raise UserError(
        f"{where}: no file '{name}'; searched in {Path.cwd()} and {GIN_FOLDER}"
        + nearest(name, there)
    )


def display(path: Path) -> str:
    """A path relative to the working directory, if it is inside."""
    shown = os.path.relpath(path)
    return str(path) if shown.startswith("..") else shown


def _file_statements(
    name: str, where: str, opened: tuple[Path, ...] = ()
) -> Iterator[tuple[Any, str]]:
    """Yields the statements of a file and, after each include, those of the included file."""
    path = find(name, where)
    if path in opened:
        raise UserError(f"{where}: '{name}' includes itself; remove this include")
    for statement, place in _parsed(path.read_text(encoding="utf-8"), display(path)):
        yield statement, place
        if isinstance(statement, config_parser.IncludeStatement):
            yield from _file_statements(statement.filename, place, (*opened, path))


@functools.lru_cache(maxsize=256)
def _parsed(text: str, where: str) -> tuple[tuple[Any, str], ...]:
    """The statements in a file's text, cached because a command reads its files several times."""
    return tuple(read_statements(io.StringIO(text), where))


def _add(statement: Any, where: str, settings: Settings) -> None:
    if isinstance(statement, config_parser.BindingStatement):
        setting = Setting(statement.value, where)
        is_macro = statement.scope and statement.selector in ("macro", MACRO)
        if statement.arg_name and not is_macro:
            # Removed first, so that it moves after a setting of the same parameter under another
            # name.
            settings.bindings.pop(statement[:3], None)
            settings.bindings[statement[:3]] = setting
            return
        # `NAME/macro.value = 1` is gin's long form of `NAME = 1`.
        own_name = "" if is_macro else statement.selector
        name = "/".join(filter(None, (statement.scope, own_name)))
        settings.macros[name] = setting
        if where.startswith("--gin."):
            settings.flags[name] = where
        elif not is_of_project(where):
            settings.declared.add(name)
    elif isinstance(statement, config_parser.BlockDeclaration):
        settings.blocks.append(Setting(statement.selector, where))
    elif isinstance(statement, config_parser.ImportStatement):
        settings.imports.append(Setting(statement.module, where))
    elif isinstance(statement, config_parser.IncludeStatement):
        settings.includes.add(statement.filename)


def is_of_project(where: str) -> bool:
    """Whether a place is in one of the project's own gin files."""
    return os.path.abspath(where).startswith(os.path.join(GIN_FOLDER, ""))


def written(key: Key) -> str:
    """A key as written to the left of the equals sign."""
    scope, name, parameter = key
    return scope if name == MACRO else "/".join(filter(None, (scope, f"{name}.{parameter}")))


def short(key: Key) -> str:
    """A key as `configurable.parameter`, without scope and module."""
    return f"{key[1].rpartition('.')[2]}.{key[2]}"


def text(value: Any) -> str:
    """A value in gin's syntax."""
    if isinstance(value, Macro):
        return f"%{value.name}"
    if isinstance(value, Reference):
        return f"@{value.name}" + "()" * value.evaluate
    if isinstance(value, dict):
        return "{" + ", ".join(f"{text(k)}: {text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(text, value)) + "," * (len(value) == 1) + ")"
    return repr(value)


def parts(value: Any) -> Iterator[Any]:
    """Yields a value and, recursively, everything it contains."""
    yield value
    if isinstance(value, Macro | Reference):
        return
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            yield from parts(part)


def read_by(name: str) -> str:
    """Says which of the project's gin files read a macro, for the end of an error.

    For example `; models/a.gin, models/b.gin and 3 more files read it`; empty if none does.
    """
    return _files_that("read", re.compile(rf"%{re.escape(name)}\b"))


def set_by(name: str) -> str:
    """Says which of the project's gin files give a macro a value, as in `read_by`."""
    return _files_that("set", re.compile(rf"(?m)^{re.escape(name)} = (?!%gin.REQUIRED)"))


def _files_that(do: str, use: re.Pattern) -> str:
    # What files share stands in a common.gin, which is not run by itself.
    files = [
        str(path.relative_to(GIN_FOLDER))
        for path in sorted(GIN_FOLDER.rglob("*.gin"))
        if path.name != "common.gin" and use.search(_with_common(path))
    ]
    if not files:
        return ""
    # Small models first, as they make better examples.
    files.sort(key=lambda file: ("tiny" not in file, file))
    further = len(files) - 2
    more = f" and {further} more file{'s' * (further > 1)}" if further > 0 else ""
    return f"; {', '.join(files[:2])}{more} {do}{'s' * (len(files) == 1)} it"


def _with_common(path: Path) -> str:
    """The text of a file of the project, with that of the common.gin that it includes."""
    text, common = path.read_text(encoding="utf-8"), path.parent / "common.gin"
    is_included = f"include '{common.relative_to(GIN_FOLDER)}'" in text
    return text + common.read_text(encoding="utf-8") if is_included else text


def nearest(name: str, names: Iterable[str]) -> str:
    """Suggests similar names as `; nearest: a, b`, for the end of an error; may be empty."""
    close = difflib.get_close_matches(name, sorted(set(names)), n=3)
    return f"; nearest: {', '.join(close)}" if close else ""
