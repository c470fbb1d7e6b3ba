"""What gin files and flags say by themselves, and how a setting of theirs differs from a run's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from switch_tf import config, configurables, gin_files, gin_order
from switch_tf.errors import UserError
from switch_tf.gin_files import MACRO, REQUIRED, Key, Macro, Reference, Setting, Settings, Statement


class Given:
    """What gin files and flags say, without the runs that they name.

    Attributes:
      files, bindings: see `config.precheck`.
      settings: their settings; where files contradict each other, those of the last.
      values: their literal values.
      keys: name -> key of each parameter.
    """

    def __init__(self, files: Sequence[str], bindings: Sequence[str]):
        self.files = files
        self.settings = gin_files.read(files, bindings)
        # In all files, as that of a user may say the same as one of the project.
        self._by_user = {
            name_of(key)
            for part in (self.settings, *self.settings.files)
            for key, setting in part.entries().items()
            if setting.value != REQUIRED and not gin_files.is_of_project(setting.where)
        }
        # What the run says may settle a contradiction; if not, the checks after this tell it.
        with contextlib.suppress(UserError):
            gin_order.settle(self.settings, lambda name: name.rpartition(".")[2])
        self.values = config.Values(self.settings)
        self.keys = {name_of(key): key for key in self.settings.bindings}

    def is_by_user(self, name: str) -> bool:
        """Whether a flag or a user's own file gives a macro or parameter its value."""
        if name in self.keys:
            origin, _ = self.settings.origin(self.keys[name])
            name = origin if origin in self.settings.macros else name
        return name in self._by_user

    def setting(self, name: str) -> Setting | None:
        """The setting in which a parameter's `%macro`s end; None if there is none."""
        if name not in self.keys:
            return None
        _, setting = self.settings.origin(self.keys[name])
        return None if setting.value == REQUIRED else setting

    def model_files(self) -> Iterator[tuple[str, bool]]:
        """Yields the name of each file that sets a model's sizes, and whether it is the user's."""
        for file in self.settings.files:
            for key, (_, where) in file.bindings.items():
                if name_of(key) == f"{configurables.MODEL}.d_model":
                    yield file.name, not gin_files.is_of_project(where)

    def required(self, name: str) -> str | None:
        """The macro that the files want a parameter's value from, if it has none."""
        for part in self.settings.files:
            for key, (value, _) in part.bindings.items():
                if name_of(key) == name and isinstance(value, Macro):
                    setting = self.settings.macros.get(value.name)
                    return value.name if setting and setting.value == REQUIRED else None
        return None


def difference(
    name: str, setting: Setting, saved: Setting, given: Setting | None = None
) -> str | None:
    """A line that says what a setting is, and what the run, else the files, had in its place."""
    for other in (saved, given):
        if other is not None and gin_files.text(other.value) != gin_files.text(setting.value):
            told = (f"{gin_files.text(s.value)} ({s.where})" for s in (setting, other))
            return f"  {name}={', not '.join(told)}"
    return None


def of_project(key: Key) -> configurables.Configurable | None:
    """The project's configurable of which a key is a parameter; None if it is another's."""
    called = key[1].rpartition(".")[2]
    return next((c for c in configurables.project_source().configurables if c.name == called), None)


def plain(settings: Settings, key: Key) -> Any:
    """A parameter's value without `%macro`s; of an @reference, the last part of its name."""
    value = settings.origin(key)[1].value
    if isinstance(value, Reference):
        return value.name.rpartition("/")[2].rpartition(".")[2]
    return value


def name_of(key: Key) -> str:
    """A key by the names alone, without modules."""
    scope, name, _ = key
    return scope if name == MACRO else "/".join(filter(None, (scope, gin_files.short(key))))


def statement_of(key: Key, setting: Setting) -> Statement:
    """What gives a parameter or macro its setting, for gin to read."""
    return Statement(f"{gin_files.written(key)} = {gin_files.text(setting.value)}", setting.where)
