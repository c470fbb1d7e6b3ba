"""An experiment: which result of the paper it repeats, with which runs, and how it is judged."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from switch_tf.errors import UserError
from switch_tf.reproduce.metrics import Measurements, Metric
from switch_tf.reproduce.training_run import TrainingRun
from switch_tf.reproduce.verdict import Verdict


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """A model trained in one way, once per seed.

    Attributes:
      model: the model's name in tables; the metrics of all its arms share a row.
      gin_files: values of `--gin_file`.
      bindings: macro or `configurable.parameter` -> value, for `--gin.NAME`.
      seeds: one run for each seed; if empty, a single run with the gin files' SEED.
      minutes: about how long a run takes on two idle cores with AVX512.
      starts_from: the arm whose first run's checkpoint is fine-tuned; None pre-trains.
    """

    model: str
    gin_files: Sequence[str]
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = ()
    minutes: float = 1.0
    starts_from: Arm | None = None

    def runs(self, folder: Path, bindings: Mapping[str, Any]) -> list[TrainingRun]:
        """The arm's runs in the order of its seeds.

        Args:
          folder: the experiment's folder.
          bindings: shared by all arms; the arm's own take precedence.
        """
        name, kind = f"pre-training {self.model}", "pretrain"
        given = {**bindings, **self.bindings}
        if self.starts_from is not None:
            name, kind = f"fine-tuning {self.model}", "finetune"
            (start, *_) = self.starts_from.runs(folder, bindings)
            given["INITIAL_CHECKPOINT_PATH"] = str(start.model_dir)
        place = folder / re.sub(r"\W+", "_", self.model).lower()
        if not self.seeds:
            return [TrainingRun(name, place / kind, self.gin_files, given, self.minutes)]
        return [
            TrainingRun(
                f"{name}, seed {seed}",
                place / f"{kind}_seed{seed}",
                self.gin_files,
                given | {"SEED": seed},
                self.minutes,
            )
            for seed in self.seeds
        ]


Runs = Mapping[Arm, Sequence[TrainingRun]]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A repetition of a table or a figure of the paper.

    Attributes:
      name: the argument of `switch-tf reproduce`.
      reproduces: the table or figure it reproduces.
      arms: the arms in running order: the first seed of each, then the second, so that an
        interrupted experiment already has results to show. An arm comes after the one it starts
        from.
      metrics: the metrics of each model, one column of the table each.
      paper: model -> metric name -> the paper's figure.
      claim: the paper's claim, in a sentence.
      refuted_by: the outcome that would refute the claim, in a sentence.
      verdict: decides from the measurements whether the claim holds.
      times_dtype: whether all runs use the dtype that is faster on this machine; otherwise gin's.
      report: module of `switch_tf.reproduce` whose `make` makes the report from the finished runs.
        It is named, not imported: it may need TensorFlow, and experiments are listed before
        TensorFlow starts.
      variants: flag, without dashes -> the experiment that `switch-tf reproduce NAME --FLAG` runs
        in place of this one.
      size: for a variant, how it differs, and how long it takes, in a few words for --help.
    """

    name: str
    reproduces: str
    arms: Sequence[Arm]
    metrics: Sequence[Metric]
    paper: Mapping[str, Mapping[str, float]]
    claim: str
    refuted_by: str
    verdict: Callable[[Measurements], Verdict]
    times_dtype: bool = False
    report: str = "report"
    variants: Mapping[str, Experiment] = dataclasses.field(default_factory=dict)
    size: str = ""

    def __post_init__(self):
        """Checks that no two runs share a folder.

        Raises:
          UserError: names of models differ only in case or punctuation, or an arm is there twice.
        """
        found = {}
        for run in itertools.chain(*self.runs(Path(), {}).values()):
            other = found.setdefault(run.model_dir, run)
            if other is not run:
                raise UserError(
                    f"experiment '{self.name}': '{other.name}' and '{run.name}' share the folder "
                    f"{run.model_dir}: give models names that differ in letters or digits"
                )

    def runs(self, folder: Path, bindings: Mapping[str, Any]) -> dict[Arm, list[TrainingRun]]:
        """Arm -> its runs in the order of its seeds; see `Arm.runs`."""
        return {arm: arm.runs(folder, bindings) for arm in self.arms}

    def measure(self, runs: Runs) -> Measurements:
        """Model -> metric name -> one value per seed, from the arm that has the metric."""
        found = {arm.model: {} for arm in self.arms}
        for metric in self.metrics:
            for arm, of_seeds in runs.items():
                values = [value for run in of_seeds if (value := metric.read(run)) is not None]
                if values:
                    found[arm.model][metric.name] = values
        return found
