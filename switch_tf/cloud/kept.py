"""What the scripts keep of a slice in a folder of this machine, as nobody else knows it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from switch_tf.errors import UserError


def digest(content: bytes) -> str:
    """What identifies an archive, as worker.sh computes it, or other content."""
    return hashlib.sha256(content).hexdigest()[:12]


def _claim(command: Sequence[str]) -> str:
    """What identifies a command."""
    return digest("\0".join(command).encode())


@dataclasses.dataclass(frozen=True)
class Kept:
    """The files of a slice.

    Attributes:
      name: the slice's.
      folder: where they are.
    """

    name: str
    folder: Path

    def remember(self, host: str) -> None:
        """Keeps the name of the machine of a run's chief, for `lost_chiefs`."""
        if host not in self._chiefs():
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "chiefs.txt", "a") as file:
                print(host, file=file)

    def lost_chiefs(self, host: str) -> list[str]:
        """The remembered machines that were deleted with an earlier slice of this name.

        Args:
          host: the chief's machine of the slice that is there now.
        """
        return [name for name in self._chiefs() if name != host]

    def _chiefs(self) -> list[str]:
        path = self.folder / "chiefs.txt"
        return path.read_text().splitlines() if path.exists() else []

    def claim(self, command: Sequence[str]) -> None:
        """Keeps that what is there under this name was asked for to run a command."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claims.write_text(_claim(command))

    def disclaim(self) -> None:
        """Forgets for what command it was asked for."""
        self._claims.unlink(missing_ok=True)

    def check_claimed(self, command: Sequence[str]) -> None:
        """Raises:
        UserError: what is there was not asked for to run this command, as far as is known here.
        """
        path = self._claims
        told = path.read_text() if path.exists() else ""
        if told == _claim(command):
            return
        made = "was made for another command" if told else "was not made by a supervisor in this"
        raise UserError(
            f"{self.name} {made}{'' if told else ' folder'}, and a supervisor deletes its slice at "
            "the end: give --adopt if it is to take it over, or another NAME"
        )

    @property
    def _claims(self) -> Path:
        return self.folder / "command.txt"
