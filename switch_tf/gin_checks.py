"""Checks settings read by `gin_files` against the declarations found by `configurables`.

Nothing is imported, so a wrong setting is reported before TensorFlow starts.
"""

from collections.abc import Callable, Iterator
from typing import Any

from gin.selector_map import SelectorMap

from switch_tf import annotations, configurables, gin_files, rules
from switch_tf.configurables import Configurable, Source
from switch_tf.errors import UserError
from switch_tf.gin_files import REQUIRED, Macro, Reference, Settings, nearest, parts

# A parameter in more classes than this says nothing to somebody who looks for its new place.
_MAX_OWNERS = 3


def check_names(
    settings: Settings, source: Source, known: SelectorMap, open_ended: bool
) -> list[Configurable]:
    """Checks that all configurables and parameters exist, and that gin may set them.

    Args:
      settings: the settings as read.
      source: the declarations of all known modules.
      known: partial name -> `Configurable`.
      open_ended: whether modules that are not read may declare more.

    Returns:
      The configurables that the settings name.

    Raises:
      UserError: a configurable or parameter is unknown, or the model passes the parameter.
    """
    used = []

    def look_up(name: str, where: str) -> Configurable | None:
        matches = known.matching_selectors(name)
        if len(matches) > 1:
            raise UserError(
                f"{where}: '{name}' is ambiguous; write one of {', '.join(sorted(matches))}"
            )
        if not matches and not open_ended:
            short = [c.name for c in source.configurables]
            raise UserError(
                f"{where}: no configurable '{name}'{nearest(name.rpartition('.')[2], short)}; to "
                "use your own, add 'import MODULE' to a gin file or set MIXTURE_OR_TASK_MODULE"
            )
        used.extend(known[m] for m in matches)
        return known[matches[0]] if matches else None

    for name, where in settings.blocks:
        look_up(name, where)
    has_model = any(name.endswith(configurables.MODEL) for _, name, _ in settings.bindings)
    for (_, name, parameter), (_, where) in settings.bindings.items():
        found = look_up(name, where)
        if found and found.parameters is not None:
            _check_parameter(where, name, parameter, found, source, has_model)
    for value, where in settings.all():
        for reference in _references(value):
            look_up(reference.name.rpartition("/")[2], where)
    return used


def _check_parameter(
    where: str, name: str, parameter: str, found: Configurable, source: Source, has_model: bool
) -> None:
    takes = found.parameters
    if parameter not in takes:
        hint = nearest(parameter, takes) or owned_by(parameter, source)
        raise UserError(
            f"{where}: '{name}' has no parameter '{parameter}'"
            + (hint or f"; it has {', '.join(sorted(takes)) or 'none'}")
        )
    of_model = rules.mark(takes[parameter], rules.SetBy)
    if of_model and has_model:
        raise UserError(
            f"{where}: the model sets the {parameter} of '{name}': set {of_model.setting} instead"
        )


def _macros_in(value: Any, settings: Settings) -> set[str]:
    """The names of the macros in a value, and in theirs."""
    found, left = set(), [value]
    while left:
        names = {part.name for part in parts(left.pop()) if isinstance(part, Macro)} - found
        found |= names
        left += [settings.macros[name].value for name in names if name in settings.macros]
    return found


def owned_by(parameter: str, source: Source) -> str:
    """Says which of the project's configurables have a parameter, for the end of an error.

    For example `; there is TransformerEncoderDecoder.d_model`; empty if none or many have it.
    """
    owners = [
        f"{c.name}.{parameter}"
        for c in source.configurables
        if _is_ours(c)
        and parameter in (c.parameters or {})
        and not rules.mark(c.parameters[parameter], rules.SetBy)
    ]
    if not 1 <= len(owners) <= _MAX_OWNERS:
        return ""
    return f"; there is {' and '.join(owners)}"


def check_macros(settings: Settings, source: Source) -> None:
    """Checks that each macro that is read has a value, and each that a flag sets is read.

    Raises:
      UserError: one has none, refers to itself, or is not read.
    """
    for name, (value, where) in settings.macros.items():
        if name in _macros_in(value, settings):
            raise UserError(f"{where}: %{name} refers to itself: give it a value")
    read = set(source.macros)
    for value, where in settings.all():
        for part in parts(value):
            if not isinstance(part, Macro):
                continue
            name = part.name
            read.add(name)
            # Other dotted names are module constants, which only gin knows.
            if "." not in name and name not in settings.macros and name not in source.constants:
                raise UserError(
                    f"{where}: %{name} has no value: pass --gin.{name}=VALUE"
                    + (nearest(name, settings.macros) or gin_files.set_by(name))
                )
    for name, where in settings.flags.items():
        if name not in read and name not in settings.declared:
            known = read | settings.declared
            files = gin_files.read_by(name)
            hint = f"{files}: add one by --gin_file" if files else ""
            hint = hint or nearest(name, known) or owned_by(name, source)
            raise UserError(f"{where}: nothing loaded reads the macro '{name}'{hint}")


def check_required(settings: Settings, source: Source, known: SelectorMap) -> None:
    """Checks that what a file marks `%gin.REQUIRED` has a value.

    Raises:
      UserError: something has none; the message says what to pass.
    """
    annotation_of = dict(source.macros)
    for key, annotation in _annotations(settings, known):
        annotation_of.setdefault(settings.origin(key)[0], annotation)
    for key, (value, where) in settings.entries().items():
        if value == REQUIRED:
            name = gin_files.written(key)
            raise UserError(f"{where}: {name} is required: {_pass(name, annotation_of.get(name))}")


def check_needed(settings: Settings, known: SelectorMap) -> None:
    """Checks that what another setting refers to has all values that it needs.

    Raises:
      UserError: it lacks one; the message says what to pass.
    """
    named = ((_look_up(known, name), parameter) for _, name, parameter in settings.bindings)
    bound = {(found.selector, parameter) for found, parameter in named if found}
    for value, where in settings.all():
        for reference in _references(value):
            found = _look_up(known, reference.name.rpartition("/")[2])
            for parameter in found.required if found else ():
                if (found.selector, parameter) not in bound:
                    name, annotation = f"{found.name}.{parameter}", found.parameters[parameter]
                    raise UserError(
                        f"{where}: {gin_files.text(reference)} needs {name}: "
                        f"{_pass(name, annotation)}, {rules.wanted(annotation)}"
                    )


def _pass(name: str, annotation: Any) -> str:
    """The flag to pass for a setting."""
    is_text = annotation not in (None, Any) and rules.fits("text", annotation)
    value = "\"'VALUE'\"" if is_text else "VALUE"
    return f"pass --gin.{name}={value}"


def check_values(settings: Settings, source: Source, known: SelectorMap) -> None:
    """Checks values against the annotations of the parameters and macros that they set.

    Raises:
      UserError: one does not match; the message says what would.
    """
    # Sorted, so that the error does not depend on the order of the files.
    for key, annotation in sorted(_annotations(settings, known)):
        name, (value, where) = settings.origin(key)
        _check_value(place(name, where), value, annotation, settings, known)
    for name, annotation in sorted(source.macros.items()):
        if name in settings.macros:
            value, where = settings.macros[name]
            _check_value(place(name, where), value, annotation, settings, known)


def place(name: str, where: str) -> str:
    """Where a setting was set, with its name, which a flag already says."""
    return where if where.startswith("--gin.") else f"{where}: {name}"


def _check_value(
    told: str, value: Any, annotation: Any, settings: Settings, known: SelectorMap
) -> None:
    while isinstance(value, Macro) and value.name in settings.macros:
        value = settings.macros[value.name].value
    if isinstance(value, Reference):
        _check_reference(told, value, annotation, known)
        return
    try:
        literal = settings.literal(value)
    except LookupError:
        if not _fits(value, annotation, settings, known):
            wanted = rules.wanted(annotation)
            raise UserError(f"{told}={gin_files.text(value)}: give {wanted}") from None
    else:
        rules.check(told, literal, annotation)


def _fits(value: Any, annotation: Any, settings: Settings, known: SelectorMap) -> bool:
    """Whether what contains `@references` matches an annotation."""
    if isinstance(value, Macro):
        # Others are module constants, which only gin knows.
        found = settings.macros.get(value.name)
        return found is None or _fits(found.value, annotation, settings, known)
    if isinstance(value, Reference):
        referred = _look_up(known, value.name.rpartition("/")[2])
        return not referred or _may_be(referred, value.evaluate, annotation)
    if isinstance(value, list | tuple):
        return any(
            all(_fits(part, item, settings, known) for part in value)
            for item in rules.items(annotation)
        )
    if isinstance(value, dict):
        # In dicts, references are only told from other values.
        try:
            stands_in = [settings.literal(value, other) for other in (_FUNCTION, _OBJECT)]
        except LookupError:
            # Of a module constant, which only gin knows.
            return True
        return any(rules.fits(whole, annotation) for whole in stands_in)
    return rules.fits(value, annotation)


def _check_reference(told: str, value: Reference, annotation: Any, known: SelectorMap) -> None:
    referred = _look_up(known, value.name.rpartition("/")[2])
    if referred and not _may_be(referred, value.evaluate, annotation):
        other = value._replace(evaluate=not value.evaluate)
        fits = _may_be(referred, other.evaluate, annotation)
        mend = gin_files.text(other) if fits else rules.wanted(annotation)
        raise UserError(f"{told}={gin_files.text(value)}: give {mend}")


def _annotations(settings: Settings, known: SelectorMap) -> Iterator[tuple[gin_files.Key, Any]]:
    for key in settings.bindings:
        found = _look_up(known, key[1])
        yield key, (found and found.parameters or {}).get(key[2], Any)


# Stand-ins for any function and for any instance that is not a function.
_FUNCTION, _OBJECT = print, object()


def _may_be(referred: Configurable, is_called: bool, annotation: Any) -> bool:
    """Whether `@name`, or `@name()` if `is_called`, is valid for an annotation."""
    makes = referred.makes if _is_ours(referred) else Any
    if annotation is Any or rules.mark(annotation, rules.Inferred):
        return True
    if not is_called:
        # A schedule and a factory of schedules are both functions.
        is_function = makes != annotation and _takes_function(annotation)
        return is_function and annotations.may_be(makes, rules.made(annotation))
    if makes is None:
        # A command, for example.
        return False
    if rules.fits(_FUNCTION, makes) and not rules.fits(_OBJECT, makes):
        is_function = _takes_function(annotation)
        return is_function and annotations.may_be(rules.made(makes), rules.made(annotation))
    is_object = isinstance(makes, annotations.StandIn)
    return (not is_object or rules.fits(_OBJECT, annotation)) and annotations.may_be(
        makes, annotation
    )


def _takes_function(annotation: Any) -> bool:
    fits = rules.fits(_FUNCTION, annotation)
    return fits and annotations.may_be(Callable[..., Any], annotation)


def _look_up(known: SelectorMap, name: str) -> Configurable | None:
    matches = known.matching_selectors(name)
    return known[matches[0]] if matches else None


def _is_ours(configurable: Configurable) -> bool:
    return (configurable.module or "").partition(".")[0] == configurables.PACKAGE


def _references(value: Any) -> Iterator[Reference]:
    return (part for part in parts(value) if isinstance(part, Reference))
