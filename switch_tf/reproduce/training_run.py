"""One run of an experiment: `switch-tf train`, at most once.

Its gin files and bindings are those that a user would pass. Its result is kept outside of its
MODEL_DIR, so that it stays when the checkpoints go.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from switch_tf import config, storage
from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.errors import UserError
from switch_tf.reproduce.result import Result, difference


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run of `switch-tf train`.

    Attributes:
      name: the run's name in messages.
      model_dir: its MODEL_DIR, a local one.
      gin_files: values of `--gin_file`.
      bindings: macro or `configurable.parameter` -> value, for `--gin.NAME`.
      kept: the path of its result.
      minutes: about how long it takes on two idle cores, to estimate the time left.
      needs: the runs whose checkpoints it reads.
    """

    name: str
    model_dir: Path
    gin_files: Sequence[str]
    bindings: Mapping[str, Any]
    kept: Path
    minutes: float = 1.0
    needs: Sequence[TrainingRun] = ()

    @property
    def binding_strings(self) -> list[str]:
        """`NAME=value` for each binding, including MODEL_DIR."""
        bindings = dict(self.bindings) | {"MODEL_DIR": str(self.model_dir)}
        return [f"{name}={gin_text(value)}" for name, value in bindings.items()]

    @property
    def command(self) -> list[str]:
        """The command that trains it."""
        return [
            *(sys.executable, "-m", "switch_tf.commands.main", "train"),
            *(f"--gin_file={name}" for name in self.gin_files),
            *(f"--gin.{binding}" for binding in self.binding_strings),
        ]

    # Read once: a live display asks for it every second, on the machine that is measured.
    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of its gin files and flags, from `config.precheck`."""
        return config.precheck(self.gin_files, self.binding_strings)

    @property
    def train_steps(self) -> int:
        """The step at which training ends."""
        return self.settings["TRAIN_STEPS"]

    @property
    def paths(self) -> ModelDir:
        """The paths of its MODEL_DIR."""
        return ModelDir(str(self.model_dir))

    def records(self, kind: str) -> list[dict]:
        """The records logged so far, in order.

        Args:
          kind: "train" for steps, or "evaluation".
        """
        return [record for record in self._log() if record["kind"] == kind]

    def _log(self) -> list[dict]:
        # Imported here because experiments are listed before TensorFlow starts.
        from switch_tf.metrics.writer import read_metrics

        return read_metrics(str(self.model_dir))

    def is_done(self) -> bool:
        """Whether its result is kept, or its last step has been taken and evaluated.

        Raises:
          UserError: what is there is of another run.
        """
        return self._kept() is not None or self.is_trained()

    def is_trained(self) -> bool:
        """Whether its MODEL_DIR is there, with the last step taken and evaluated.

        Raises:
          UserError: the folder holds a run with other settings.
        """
        self.check_same_settings()
        steps = (record["step"] for record in self.records("evaluation"))
        return max(steps, default=0) >= self.train_steps

    def result(self) -> Result:
        """Its result.

        Raises:
          UserError: it is not done.
        """
        if (kept := self._kept()) is not None:
            return kept
        if not self.is_trained():
            raise UserError(f"{self.name} is not done")
        return self.keep()

    def keep(self, diverged_at: int | None = None) -> Result:
        """Makes its result from its MODEL_DIR and keeps it.

        Args:
          diverged_at: the step whose loss was not finite, if that ended it.
        """
        facts = json.loads(storage.read_text(self.paths.facts))
        result = Result.of(
            self.name, self.settings, facts, self._log(), self.sittings(), diverged_at
        )
        result.write(self.kept)
        return result

    def sittings(self) -> list[dict]:
        """What each of its processes took: "seconds", and the "cores" that "others" took."""
        path = self.paths.sittings
        lines = storage.read_text(path).splitlines() if storage.exists(path) else ()
        return list(map(json.loads, lines))

    def check_same_settings(self) -> None:
        """Rejects a folder whose run had other settings; a new length or log period is allowed.

        Raises:
          UserError: it had.
        """
        if not storage.exists(self.paths.settings):
            return
        then = json.loads(storage.read_text(self.paths.settings))
        self._refuse_another(then, self.model_dir, "--output_dir, or remove that folder")

    def _kept(self) -> Result | None:
        """Its kept result; None if there is none, or only that of a shorter run."""
        if not self.kept.exists():
            return None
        result = Result.read(self.kept)
        self._refuse_another(result.settings, self.kept, "--results_dir, or remove that file")
        is_whole = result.diverged_at is not None or result.step >= self.train_steps
        return result if is_whole else None

    def _refuse_another(self, then: Mapping[str, Any], path: Path, other: str) -> None:
        found = difference(then, self.settings)
        if found:
            name, old, new = found
            raise UserError(
                f"{self.name}: {path} was made with {name}={old}, but this run has {new}: give "
                f"another {other}"
            )


def gin_text(value: Any) -> str:
    """A value as gin reads it; text that begins with @ or % names a configurable or a macro."""
    return value if isinstance(value, str) and value[:1] in ("@", "%") else repr(value)
