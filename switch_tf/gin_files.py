"""Reads gin files and flags into plain values, with the place where each was set.

gin itself resolves every name while reading, so it needs all modules imported; here names stay
names. Files are looked up in the working directory, then in the project's `gin/`.
"""

import contextlib
import dataclasses
import difflib
import functools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from switch_tf import storage
from switch_tf.errors import UserError
from switch_tf.gin_syntax import Macro, Reference, statements


def _find_gin_folder() -> Path:
    source_tree = Path(__file__).parent.parent / "gin"
    installed = Path(sys.prefix) / "share" / "switch-tf" / "gin"
    # Once installed, the `gin` next to switch_tf is gin-config: look for our `models` in it.
    return source_tree if (source_tree / "models").is_dir() else installed


GIN_FOLDER = _find_gin_folder()


REQUIRED = Macro("gin.REQUIRED")
# The mark of the byte order, at the start of a file.
_MARK = "\ufeff"


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
      includes: paths of the files that it includes.
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

    def literal(self, value: Any, stand_in: Any = None) -> Any:
        """A value with its `%macros` filled in.

        Args:
          value: as read.
          stand_in: what to put in the place of each `@reference`, if they are allowed.

        Raises:
          LookupError: the value contains an unset macro, or a reference without a stand-in.
          RecursionError: a macro refers to itself.
        """
        if isinstance(value, Macro):
            return self.literal(self.macros[value.name].value, stand_in)
        if isinstance(value, Reference):
            if stand_in is None:
                raise LookupError(value.name)
            return stand_in
        if isinstance(value, dict):
            pairs = value.items()
            return {self.literal(k, stand_in): self.literal(v, stand_in) for k, v in pairs}
        if isinstance(value, list | tuple):
            return type(value)(self.literal(v, stand_in) for v in value)
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
        for statement, place in _flag_statements(binding):
            _add(statement, place, settings)
    return settings


def _flag_statements(binding: str) -> list[tuple[Any, str]]:
    """The statement of a flag, or those of a `Statement`, with their places."""
    if isinstance(binding, Statement):
        return list(statements(binding, binding.where, is_file=False))
    flag = "--gin." + binding.partition("=")[0].strip()
    found = list(statements(binding, flag, is_file=False))
    if [type(statement) for statement, _ in found] != [config_parser.BindingStatement]:
        raise UserError(f"{flag}: not one setting: write --gin.NAME=VALUE")
    return found


def read_text(text: str, where: str) -> Settings:
    """Reads the text of a file, without what it includes.

    Args:
      text: the file's text.
      where: its name, for errors and the places of settings.

    Raises:
      UserError: there is a syntax error.
    """
    settings = Settings(name=where)
    for statement, place in statements(text.removeprefix(_MARK), where, is_file=True):
        _add(statement, place, settings)
    return settings


def find(name: str, where: str, beside: Path | None = None) -> Path:
    """Finds a gin file by name.

    Args:
      name: the file's name; ~ expands to the home folder.
      where: the place that names the file, for the error.
      beside: the folder of the file that includes it, which is searched, too, before the project's
        `gin/`.

    Raises:
      UserError: it is remote; or not found, and the message gives `where` and the places searched.
    """
    if storage.is_remote(name):
        raise UserError(
            f"{where}: '{name}' is remote, but gin files have to be local: copy it, and the "
            "run.json beside it if it is a run's"
        )
    folders = [Path(), *([beside] if beside else []), GIN_FOLDER]
    for folder in folders:
        path = os.path.join(folder, os.path.expanduser(name))
        if os.path.isfile(path):
            return Path(path)
    there = sorted(str(p.relative_to(GIN_FOLDER)) for p in GIN_FOLDER.rglob("*.gin"))
    searched = dict.fromkeys(str(folder.absolute()) for folder in folders)
    raise UserError(
        f"{where}: no file '{name}'; searched in {' and '.join(searched)}" + nearest(name, there)
    )


def contents(path: Path, where: str) -> str:
    """The text of a gin file, without the mark of its byte order that some editors write.

    Args:
      path: the file.
      where: the place that names the file, for the error.

    Raises:
      UserError: it is not UTF-8, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").removeprefix(_MARK)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: '{display(path)}' is not UTF-8 ({error.reason} at byte {error.start:,}): "
            "save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{where}: '{display(path)}' cannot be read: {error.strerror}") from error


def display(path: Path) -> str:
    """A path relative to the working directory, if it is inside."""
    shown = os.path.relpath(path)
    return str(path) if shown.startswith("..") else shown


def _file_statements(
    name: str, where: str, opened: tuple[Path, ...] = ()
) -> Iterator[tuple[Any, str]]:
    """Yields the statements of a file and, after each include, those of the included file."""
    path = find(name, where, opened[-1].parent if opened else None)
    if path.resolve() in (one.resolve() for one in opened):
        raise UserError(f"{where}: '{name}' includes itself; remove this include")
    for statement, place in _parsed(contents(path, where), display(path)):
        if not isinstance(statement, config_parser.IncludeStatement):
            yield statement, place
            continue
        found = find(statement.filename, place, path.parent)
        yield statement._replace(filename=str(found)), place
        yield from _file_statements(statement.filename, place, (*opened, path))


@functools.lru_cache(maxsize=256)
def _parsed(text: str, where: str) -> tuple[tuple[Any, str], ...]:
    """The statements in a file's text, cached because a command reads its files several times."""
    return tuple(statements(text, where, is_file=True))


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
