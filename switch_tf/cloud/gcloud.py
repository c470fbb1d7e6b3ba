"""Calls of gcloud: how a command is shown and run, and what its errors mean."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from switch_tf.errors import UserError

# Characters that a shell takes as they are.
_PLAIN = re.compile(r"[\w@%+=:,./^-]+", re.ASCII)
_FLAG = re.compile(r"(--[\w.-]+=)(.*)", re.ASCII | re.DOTALL)
_WIDTH = 100
# With which ssh, and so gcloud, ends if it cannot connect.
SSH_REFUSED = 255
# Seconds for what only looks: of a connection that is dead gcloud may never tell.
LOOK = 180.0


class Cause(enum.Enum):
    """Why gcloud failed, or why a request for a slice did.

    Attributes:
      CAPACITY: the zone has no such slice at the moment; waiting helps.
      QUOTA: the project may not have as much; waiting does not help.
      EXISTS: what is to be created is there.
      MISSING: what is named is not there.
      LOGGED_OUT: gcloud wants somebody to log in.
      REFUSED: the request or a permission is wrong; waiting does not help.
      OTHER: anything else, such as a network that is down; trying again may help.
    """

    CAPACITY = r"no more capacity|insufficient .*capacity|stockout|resource_pool_exhausted"
    QUOTA = r"quota"
    EXISTS = r"already_exists|already exists"
    MISSING = r"not_found|not found"
    LOGGED_OUT = r"unauthenticated|active account|reauthentication|invalid_grant"
    REFUSED = (
        r"invalid_argument|permission_denied|failed_precondition|permission|invalid choice"
        r"|unrecognized arguments|is not available in|has not been used in project|is invalid"
    )
    OTHER = r""

    @classmethod
    def of(cls, text: str) -> Cause:
        """What an error's text says; the first of the above that it mentions.

        Warnings, which may tell of a quota, say nothing of why.
        """
        parts = re.split(r"^(?=ERROR:|WARNING:)", text, flags=re.MULTILINE)
        errors = [part for part in parts if part.startswith("ERROR:")]
        told = "".join(errors or [part for part in parts if not part.startswith("WARNING:")])
        return next(cause for cause in cls if re.search(cause.value, told, re.IGNORECASE))


class Failure(UserError):
    """gcloud ended badly.

    Attributes:
      cause: why.
      exit_status: gcloud's; of ssh, that of what it ran on a worker.
      told: its output until then.
    """

    def __init__(self, what: str, text: str, exit_status: int = 1, told: str = ""):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        said = (errors or lines[-1:] or ["it said nothing"])[0]
        super().__init__(f"{what}: {said.removeprefix('ERROR: ')}")
        self.cause = Cause.of(text)
        self.exit_status = exit_status
        self.told = told


def quote(word: str) -> str:
    """A word as a reader would write it in a shell; a flag's name stays outside of the quotes.

    >>> print(quote("--gin.MODEL_DIR='gs://b/m'"))
    --gin.MODEL_DIR="'gs://b/m'"
    """
    found = _FLAG.fullmatch(word)
    flag, text = found.groups() if found else ("", word)
    if flag and not text or _PLAIN.fullmatch(text):
        return word
    # In double quotes a shell heeds these, of which an interactive one the last.
    if "'" not in text or set("$`!") & set(text):
        return flag + shlex.quote(text)
    return f'{flag}"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """A text inside of double quotes."""
    return re.sub(r'([\\"$`])', r"\\\1", text)


def join(words: Sequence[str]) -> str:
    """A command that a shell splits into `words`, on one line."""
    return " ".join(map(quote, words))


def shown(words: Sequence[str]) -> str:
    """A command for readers, on several lines if it is long."""
    return _wrapped([_long(word) or quote(word) for word in words], "  ")


def _long(word: str) -> str:
    """A long --command on several lines, which the worker's shell splits alike; or nothing."""
    name, _, command = word.partition("=")
    if name != "--command" or len(quote(word)) < _WIDTH - 3 or set("!\n") & set(command):
        return ""
    words = [_escaped(quote(word)) for word in shlex.split(command)]
    words[0] = f'{name}="{words[0]}'
    return _wrapped([*words[:-1], f'{words[-1]}"'], "    ", used=2)


def _wrapped(words: Sequence[str], indent: str, used: int = 0) -> str:
    """Words on lines of which the first already has `used` characters."""
    lines = [""]
    for word in words:
        room = _WIDTH - 3 - used * (len(lines) == 1)
        if lines[-1] and len(lines[-1]) + len(word) > room:
            lines.append(indent + word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Shell:
    """Runs commands, or with `is_dry` only shows them."""

    is_dry: bool = False

    def check(self) -> None:
        """Raises:
        UserError: there is no gcloud.
        """
        if not self.is_dry and shutil.which("gcloud") is None:
            raise UserError(
                "gcloud is not on the PATH: install the Google Cloud CLI "
                "(https://cloud.google.com/sdk/docs/install), and run 'gcloud init'"
            )

    def run(self, what: str, words: Sequence[str]) -> str:
        """Shows and runs a command that changes something; returns its output.

        Args:
          what: what it does, for the error.

        Raises:
          Failure: it ended badly.
        """
        print(shown(words), flush=True)
        return "" if self.is_dry else self.ask(what, words)

    def ask(self, what: str, words: Sequence[str], seconds: float | None = None) -> str:
        """Runs a command without showing it; returns its output.

        Args:
          what: what it does, for the error.
          words: the command.
          seconds: how long it may take; None: without an end.

        Raises:
          Failure: it ended badly, or not in time.
        """
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            told = (error.stdout or b"").decode(errors="replace")
            raise Failure(what, f"no end after {seconds:.0f} s", told=told) from None
        if done.returncode:
            raise Failure(what, done.stderr, done.returncode, done.stdout)
        return done.stdout

    def stream(self, what: str, words: Sequence[str]) -> None:
        """Shows and runs a command whose output the reader sees at once.

        Raises:
          Failure: it ended badly; what it said has been seen.
        """
        print(shown(words), flush=True)
        if self.is_dry:
            return
        status = subprocess.run(words, stdin=subprocess.DEVNULL).returncode
        if status:
            raise Failure(what, f"status {status}; the lines above say why", status)

    def ask_json(self, what: str, words: Sequence[str]) -> dict[str, Any]:
        """The output of a command that describes something.

        Raises:
          Failure: it ended badly.
        """
        told = self.ask(what, [*words, "--format=json"], LOOK)
        try:
            found = json.loads(told)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Failure(what, f"gcloud did not describe it: {told[:100]!r}")
        return found
