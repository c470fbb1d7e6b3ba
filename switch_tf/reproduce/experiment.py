"""An experiment: what of the paper it repeats, by which runs, and what their figures then say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from switch_tf.reproduce.metrics import Measured, Metric
from switch_tf.reproduce.training_run import TrainingRun
from switch_tf.reproduce.verdict import Verdict


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """A model that is trained one way, once for each seed.

    Attributes:
      model: as tables call it; what is measured of a model's arms shares a row.
      gin_files: as `--gin_file` takes them.
      macros: name -> value, as `--gin.NAME` takes them.
      seeds: of its runs; none: one run, of the gin files' SEED.
      starts_from: the arm whose first run's checkpoint each of its runs starts from: it fine-tunes.
    """

    model: str
    gin_files: Sequence[str]
    macros: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = ()
    starts_from: Arm | None = None

    def runs(self, folder: Path, macros: Mapping[str, Any]) -> list[TrainingRun]:
        """Its runs by seed.

        Args:
          folder: of the experiment.
          macros: that all arms share, where it has none of its own.
        """
        name, kind = f"pre-training {self.model}", "pretrain"
        given = {**macros, **self.macros}
        if self.starts_from is not None:
            name, kind = f"fine-tuning {self.model}", "finetune"
            (start, *_) = self.starts_from.runs(folder, macros)
            given["INITIAL_CHECKPOINT_PATH"] = str(start.model_dir)
        place = folder / re.sub(r"\W+", "_", self.model).lower()
        if not self.seeds:
            return [TrainingRun(name, place / kind, self.gin_files, given)]
        return [
            TrainingRun(
                f"{name}, seed {seed}",
                place / f"{kind}_seed{seed}",
                self.gin_files,
                given | {"SEED": seed},
            )
            for seed in self.seeds
        ]


Runs = Mapping[Arm, Sequence[TrainingRun]]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A table or a figure of the paper, repeated.

    Attributes:
      name: as `switch-tf reproduce` takes it.
      reproduces: the table or figure.
      arms: in the order in which they run: the first seed of each, then the second, so that an
        interrupted experiment has something to show. What an arm starts from stands before it.
      metrics: what is measured of each model, a column of the table each.
      paper: model -> name of a metric -> the paper's figure.
      claim: what the paper says of it, in a sentence.
      refuted_by: what would refute that, in a sentence.
      verdict: tells from what was measured whether the claim holds.
      times_dtype: whether all runs are in the dtype that this machine is faster in; else gin says.
      report: the module of `switch_tf.reproduce` whose `make` makes the report of its runs. By its
        name: it may need TensorFlow, and experiments are listed before TensorFlow starts.
    """

    name: str
    reproduces: str
    arms: Sequence[Arm]
    metrics: Sequence[Metric]
    paper: Mapping[str, Mapping[str, float]]
    claim: str
    refuted_by: str
    verdict: Callable[[Measured], Verdict]
    times_dtype: bool = False
    report: str = "report"

    def runs(self, folder: Path, macros: Mapping[str, Any]) -> dict[Arm, list[TrainingRun]]:
        """The runs of each arm by seed; as `Arm.runs`."""
        return {arm: arm.runs(folder, macros) for arm in self.arms}

    def measure(self, runs: Runs) -> Measured:
        """Model -> name of a metric -> its value of each seed, of the arm that has it."""
        found = {arm.model: {} for arm in self.arms}
        for metric in self.metrics:
            for arm, of_seeds in runs.items():
                values = [value for run in of_seeds if (value := metric.read(run)) is not None]
                if values:
                    found[arm.model][metric.name] = values
        return found
