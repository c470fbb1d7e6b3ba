"""Command line flags that the subcommands share: gin files and gin values, as T5X has them."""

import argparse
import difflib
import sys
from collections.abc import Sequence

from switch_tf.errors import UserError

_GIN_PREFIX = "--gin."


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s, and which names the nearest known flag."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        """As argparse's.

        Raises:
          UserError: a flag or an argument that is unknown, missing or malformed.
        """
        args = sys.argv[1:] if args is None else args
        # First: argparse would name an argument that is missing beside a flag that is misspelt.
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
        """Raises `UserError`; argparse would print its usage, too."""
        raise UserError(f"{message}; see {self.prog} --help")

    def _unknown(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"unexpected argument '{argument}'; see {self.prog} --help"
        flag = argument.partition("=")[0]
        known = self._flags()
        known += [_GIN_PREFIX + "NAME"] if "--gin_file" in known else []
        close = difflib.get_close_matches(flag, known, n=1, cutoff=0.5)
        return f"unknown flag '{flag}'; " + (
            f"nearest: {close[0]}" if close else f"see {self.prog} --help"
        )


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--gin_file`, read as `args.gin_file`, and help on `--gin.NAME`.

    The values of `--gin.NAME` are taken out before by `split_gin_args`.
    """
    group = parser.add_argument_group("gin")
    group.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="PATH",
        help="gin file, looked for in the working directory, then in gin/; may be repeated",
    )
    # Never reaches argparse: listed for --help alone.
    group.add_argument(
        "--gin.NAME",
        dest="gin_help",
        default=argparse.SUPPRESS,
        metavar="VALUE",
        help="sets a macro (--gin.TRAIN_STEPS=100) or a parameter (--gin.Adafactor.beta1=0.9); "
        "a string needs quotes of its own (--gin.MODEL_DIR=\"'/tmp/model'\"); may be repeated",
    )


def split_gin_args(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.NAME=VALUE` and `--gin.NAME VALUE` out of a command line.

    Returns:
      Bindings `NAME=VALUE` in their order, and the other arguments.

    Raises:
      UserError: a flag without a name or a value.
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
