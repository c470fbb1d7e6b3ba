"""Parses the text of gin files and flags with gin's own parser; names stay names.

gin's parser drops some of what it cannot read: a minus sign before a name, and all but the last
value of a key that a dict has twice. Both are errors here.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

from gin import config_parser

from switch_tf.errors import UserError

# Python shows no longer number, and nothing here takes one.
_MOST_BITS = 10_000


class Macro(NamedTuple):
    """`%name` in a value."""

    name: str


class Reference(NamedTuple):
    """`@name` in a value, or `@name()` if `evaluate`."""

    name: str
    evaluate: bool = False


class _Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as names, which gin would resolve."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, scoped_name):
        return Macro(scoped_name)


class _Parser(config_parser.ConfigParser):
    """gin's parser, which refuses what it would drop."""

    def _maybe_parse_basic_type(self):
        is_minus = self._current_token.string == "-"
        is_found, value = super()._maybe_parse_basic_type()
        if is_minus and not is_found:
            self._raise_syntax_error("Unable to parse value.")
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            self._raise_syntax_error("The number is too long.")
        return is_found, value

    def _parse_dict_item(self):
        key, value = super()._parse_dict_item()
        try:
            hash(key)
        except TypeError:
            self._raise_syntax_error("A key of a dict cannot be a list or a dict.")
        self._keys.append(key)
        return key, value

    def _maybe_parse_container(self):
        outer, self._keys = getattr(self, "_keys", []), []
        is_found, value = super()._maybe_parse_container()
        if isinstance(value, dict) and len(value) < len(self._keys):
            twice = next(key for key in self._keys if self._keys.count(key) > 1)
            self._raise_syntax_error(f"The dict has the key {twice!r} twice.")
        self._keys = outer
        return is_found, value


def statements(text: str, where: str, is_file: bool) -> Iterator[tuple[Any, str]]:
    """Yields the statements of gin text, each with its place.

    Args:
      text: the text of a file or flag.
      where: the file or flag, for errors.
      is_file: whether places have a line.

    Raises:
      UserError: there is a syntax error.
    """
    try:
        for statement in _Parser(io.StringIO(text), _Delegate()):
            yield statement, f"{where}:{statement.location.line_num}" if is_file else where
    except (SyntaxError, tokenize.TokenError) as error:
        raise _syntax_error(error, where, None if is_file else text) from error
    except RecursionError as error:
        raise UserError(f"{where}: syntax error: too many brackets within each other") from error


def _syntax_error(error: Exception, where: str, flag: str | None) -> UserError:
    message = str(error.args[0]).splitlines()[-1].strip().rstrip(".")
    place = error.args[1] if len(error.args) > 1 else ()
    if flag is not None:
        mend = "a string needs its own quotes: --gin.NAME=\"'text'\""
        if re.search(r"Failed to parse token '[A-Za-z_]", message):
            if flag.partition("=")[2].strip().startswith(("{", "[", "(")):
                mend = "strings in it need quotes, as in \"{'inputs': 512, 'targets': 114}\""
            else:
                mend += ", a function or class an @: --gin.NAME=@AdamW"
        return UserError(f"{where}: not a gin value: {message}; {mend}")
    if isinstance(error, tokenize.TokenError):
        return UserError(f"{where}:{place[0]}: syntax error: {message}; is a bracket left open?")
    line = (place[3] or "").strip()
    return UserError(f"{where}:{place[1]}: syntax error: {message}, in: {line}")
