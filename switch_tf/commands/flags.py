"""Command-line flags shared by the subcommands: gin files and gin values, as in T5X."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence

from switch_tf import gin_files
from switch_tf.errors import UserError

_GIN_PREFIX = "--gin."
_MACRO = re.compile(r"^([A-Z][A-Z_]*) *=", flags=re.MULTILINE)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` and suggests the nearest known flag."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        """Parses arguments as argparse does.

        Raises:
          UserError: a flag or an argument is unknown, missing or malformed.
        """
        args = sys.argv[1:] if args is None else args
        # Checked first: argparse would report a missing argument instead of the misspelt flag.
        for argument in args:
            if argument.startswith("--") and argument.partition("=")[0] not in self._flags():
                raise UserError(self._unknown(argument))
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(self._unknown(unknown[0]))
        return namespace

    def _flags(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def error(self, message):
        """Raises `UserError`, where argparse would also print its usage."""
        raise UserError(f"{message}; see {self.prog} --help")

    def _unknown(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"unexpected argument '{argument}'; see {self.prog} --help"
        flag = argument.partition("=")[0]
        known = self._flags()
        if "--gin_file" in known:
            known += [_GIN_PREFIX + "NAME"]
            for macro in _macros_like(flag):
                return f"unknown flag '{flag}'; settings are gin's: {_GIN_PREFIX}{macro}=VALUE"
        close = difflib.get_close_matches(flag, known, n=1, cutoff=0.5)
        return f"unknown flag '{flag}'; " + (
            f"nearest: {close[0]}" if close else f"see {self.prog} --help"
        )


def _macros_like(flag: str) -> list[str]:
    """The macros of the project's gin files that have all words of a flag, the shortest first."""
    words = set(flag.strip("-").upper().replace("-", "_").split("_"))
    names = {
        name
        for file in gin_files.GIN_FOLDER.rglob("*.gin")
        for name in _MACRO.findall(file.read_text(encoding="utf-8"))
    }
    return sorted((n for n in names if words <= {*n.split("_")}), key=lambda n: (len(n), n))


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--gin_file`, stored in `args.gin_file`, and help for `--gin.NAME`.

    `split_gin_args` removes `--gin.NAME` from the arguments before they are parsed.
    """
    group = parser.add_argument_group("gin")
    group.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="PATH",
        help="gin file, searched for in the working directory, then in gin/; may be repeated",
    )
    # Listed only for --help: these flags never reach argparse.
    group.add_argument(
        "--gin.NAME",
        dest="gin_help",
        default=argparse.SUPPRESS,
        metavar="VALUE",
        help="sets a macro (--gin.TRAIN_STEPS=100) or a parameter (--gin.Adafactor.beta1=0.9); a "
        "string needs its own quotes (--gin.MODEL_DIR=\"'/tmp/model'\"); may be repeated",
    )


def split_gin_args(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates `--gin.NAME=VALUE` and `--gin.NAME VALUE` from the other arguments.

    Returns:
      The bindings `NAME=VALUE` in order, and the other arguments.

    Raises:
      UserError: a flag lacks a name or a value.
    """
    bindings, rest = [], []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith(_GIN_PREFIX):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix(_GIN_PREFIX).partition("=")
        value = value if equals else next(arguments, "")
        if not name.strip() or not value.strip() or value.startswith(_GIN_PREFIX):
            raise UserError(f"'{argument}' lacks a name or a value: write --gin.NAME=VALUE")
        bindings.append(f"{name}={value}")
    return bindings, rest
