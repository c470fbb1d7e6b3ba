"""Makes gin files independent of their order, by rejecting files that contradict each other.

In gin itself the last file wins, so that swapping two flags would change a run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from switch_tf.errors import UserError
from switch_tf.gin_files import (
    MACRO,
    REQUIRED,
    Key,
    Macro,
    Reference,
    Setting,
    Settings,
    find,
    text,
    written,
)


class _FileSetting(NamedTuple):
    """A setting in one `--gin_file` or its includes."""

    file: Settings
    key: Key
    setting: Setting


def settle(settings: Settings, complete: Callable[[str], str]) -> list[str]:
    """Reduces each setting to a single value, independently of the order of the files.

    Short and long names of a configurable are equivalent. A value in one file satisfies what
    another requires, and a flag, or a checkpoint's run, resolves contradictions between files.

    Args:
      settings: the result of `gin_files.read`; modified.
      complete: maps a configurable's name to its complete selector.

    Returns:
      Statements for gin to read after the files, because in gin the last file wins.

    Raises:
      UserError: two files give a setting different values; the message names both places.
    """

    def keyed(entries: dict[Key, Setting]) -> dict[Key, tuple[Key, Setting]]:
        return {(k[0], complete(k[1]), k[2]): (k, setting) for k, setting in entries.items()}

    by_file = [(file, keyed(file.entries())) for file in settings.files]
    holds, rivals, after = keyed(settings.entries()), {}, []
    for name, (_, setting) in holds.items():
        every = [_FileSetting(file, *entries[name]) for file, entries in by_file if name in entries]
        if not every or every[-1].setting != setting:
            # Set by a flag, or by a checkpoint's run.
            continue
        rivals[name] = [given for given in every if given.setting.value != REQUIRED] or every
        last = rivals[name][-1]
        holds[name] = last.key, last.setting
        if last is not every[-1]:
            after.append(f"{written(last.key)} = {text(last.setting.value)}")
    settings.bindings = {key: setting for key, setting in holds.values() if key[1] != MACRO}
    settings.macros = {key[0]: setting for key, setting in holds.values() if key[1] == MACRO}
    for name in sorted(rivals):
        # Sorted by place, so that the error does not depend on the order of the files.
        first, *others = sorted(rivals[name], key=lambda given: given.setting.where)
        # A macro's own name is not resolved, because that would give the value from another file.
        own = (name[0],) if name[1] == MACRO else ()
        for other in others:
            a, b = (_meaning(g.setting.value, settings, complete, own) for g in (first, other))
            if a != b:
                raise _conflict(first, other)
    return after


def _meaning(
    value: Any, settings: Settings, complete: Callable[[str], str], within: tuple[str, ...] = ()
) -> Any:
    """A normal form of a value, equal for values that lead to the same run."""

    def inner(part, *names):
        return _meaning(part, settings, complete, (*within, *names))

    if isinstance(value, Macro) and value.name in settings.macros and value.name not in within:
        return inner(settings.macros[value.name].value, value.name)
    if isinstance(value, Reference):
        scope, _, name = value.name.rpartition("/")
        return Reference, scope, complete(name), value.evaluate
    if isinstance(value, dict):
        return dict, sorted(((inner(k), inner(v)) for k, v in value.items()), key=repr)
    if isinstance(value, list | tuple):
        return type(value), [inner(part) for part in value]
    # The type tells 1, 1.0 and True apart, which compare equal.
    return type(value), value


def _conflict(first: _FileSetting, second: _FileSetting) -> UserError:
    name = written(first.key)
    mend = "let one file include the other"
    for whole, part in ((first.file, second.file), (second.file, first.file)):
        included = {Path(path).resolve() for path in whole.includes}
        if find(part.name, "").resolve() in included:
            mend = f"remove --gin_file={part.name}, which {whole.name} includes"
    (a, where_a), (b, where_b) = first.setting, second.setting
    return UserError(
        f"{where_a}: {name}={text(a)}, but {where_b} has {text(b)}, so the order of the --gin_file "
        f"flags would decide: pass --gin.{name}=VALUE, or {mend}"
    )
