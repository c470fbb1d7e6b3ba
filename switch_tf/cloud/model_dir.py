"""The folder on gs:// that a run on a slice writes to, as far as the scripts look at it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence

from switch_tf.cloud import gcloud
from switch_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class ModelDir:
    """A run's MODEL_DIR."""

    path: str
    shell: gcloud.Shell

    @classmethod
    def of(cls, command: Sequence[str], shell: gcloud.Shell) -> ModelDir | None:
        """That of a command; None if it does not train.

        Raises:
          UserError: the workers would not share it.
        """
        if "train" not in command[1:2]:
            return None
        values = [w.partition("=")[2] for w in command if w.startswith("--gin.MODEL_DIR=")]
        found = re.fullmatch(r"""\s*(['"])(gs://[^'"]+?)/*\1\s*""", values[-1] if values else "")
        if not found:
            given = f", but it is {values[-1]}" if values else ""
            raise UserError(
                "all workers must write to one MODEL_DIR on gs://: give "
                f"--gin.MODEL_DIR=\"'gs://BUCKET/FOLDER'\"{given}"
            )
        return cls(found[2], shell)

    def newest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none, or it cannot be told."""
        try:
            told = self.shell.ask("", ["gcloud", "storage", "ls", f"{self.path}/"], gcloud.LOOK)
        except gcloud.Failure:
            return None
        steps = re.findall(r"/checkpoint_(\d+)/$", told, re.MULTILINE)
        return max(map(int, steps), default=None)

    def free(self, lost: Sequence[str]) -> None:
        """Removes the lock of a run on machines that are gone, which nobody else can.

        A run takes over what a dead process of its own machine left, but of another machine it
        cannot know whether it still runs (`switch_tf.checkpoints.lock`).

        Args:
          lost: names of machines that have been deleted.
        """
        path = f"{self.path}/in_use"
        try:
            words = ["gcloud", "storage", "cat", path]
            host = json.loads(self.shell.ask("", words, gcloud.LOOK))["host"]
        except (gcloud.Failure, ValueError, KeyError, TypeError):
            return
        if host in lost:
            words = ["gcloud", "storage", "rm", path]
            self.shell.run(f"removing what {host} left", words)
