"""An experiment: which result of the paper it repeats, with which runs, and how it is judged."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from switch_tf.errors import UserError
from switch_tf.reproduce.metrics import Measurements, Metric
from switch_tf.reproduce.result import Result
from switch_tf.reproduce.training_run import TrainingRun
from switch_tf.reproduce.verdict import Claim

_KINDS = {"pretrain": "pre-training", "finetune": "fine-tuning", "distill": "distilling"}


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """A model trained in one way, once per seed. Experiments that share an arm run it once.

    Attributes:
      model: the model's name in tables; the metrics of all its arms share a row.
      gin_files: values of `--gin_file`.
      bindings: macro or `configurable.parameter` -> value, for `--gin.NAME`.
      seeds: one run for each seed; if empty, a single run with the gin files' SEED.
      minutes: about how long a run takes on an idle core with AVX2, beside another run on another.
      starts_from: the arm whose checkpoint is trained further, that of the same seed if it has it,
        else of its first run; None starts from initial values.
      teacher: the arm whose checkpoint is distilled, likewise.
    """

    model: str
    gin_files: Sequence[str]
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = ()
    minutes: float = 1.0
    starts_from: Arm | None = None
    teacher: Arm | None = None

    @property
    def kind(self) -> str:
        """What its runs do: `distill`, `finetune` or `pretrain`."""
        if self.teacher is not None:
            return "distill"
        return "pretrain" if self.starts_from is None else "finetune"

    def runs(
        self, folder: Path, results: Path, bindings: Mapping[str, Any] | None = None
    ) -> list[TrainingRun]:
        """The arm's runs in the order of its seeds.

        Args:
          folder: the folder for the runs of all arms.
          results: the folder for the results of all arms.
          bindings: more bindings, for these and those that they need.
        """
        return [self._run(seed, folder, results, bindings or {}) for seed in self.seeds or (None,)]

    def _run(
        self, seed: int | None, folder: Path, results: Path, bindings: Mapping[str, Any]
    ) -> TrainingRun:
        given, needs = {**self.bindings, **bindings}, []
        for macro, arm in (
            ("INITIAL_CHECKPOINT_PATH", self.starts_from),
            ("TEACHER_PATH", self.teacher),
        ):
            if arm is not None:
                first = seed if seed in arm.seeds or not arm.seeds else arm.seeds[0]
                first = first if arm.seeds else None
                needs.append(arm._run(first, folder, results, bindings))
                given[macro] = str(needs[-1].model_dir)
        name, place = f"{_KINDS[self.kind]} {self.model}", self.kind
        if seed is not None:
            name, place = f"{name}, seed {seed}", f"{place}_seed{seed}"
            given["SEED"] = seed
        place = Path(re.sub(r"\W+", "_", self.model).lower(), place)
        return TrainingRun(
            name,
            folder / place,
            self.gin_files,
            given,
            results / f"{place}.json",
            self.minutes,
            tuple(needs),
        )


def in_order(runs: Runs) -> list[TrainingRun]:
    """The first seed of each arm, then the second: an interrupted experiment has some of each.

    Runs that start from others come last: they are shorter, so that several cores end together.
    """
    of_seeds = itertools.zip_longest(*runs.values())
    found = filter(None, itertools.chain.from_iterable(of_seeds))
    return sorted(found, key=lambda run: bool(run.needs))


def with_needed(
    runs: Iterable[TrainingRun],
    is_left: Callable[[TrainingRun], bool] = lambda run: True,
) -> list[TrainingRun]:
    """Runs, each once and behind those whose checkpoints it needs.

    Args:
      runs: the runs.
      is_left: whether a needed run is to be there.
    """
    found = {}

    def add(run: TrainingRun) -> None:
        for needed in filter(is_left, run.needs):
            add(needed)
        found.setdefault(run.model_dir, run)

    for run in runs:
        add(run)
    return list(found.values())


Runs = Mapping[Arm, Sequence[TrainingRun]]
# Of an arm whose runs are not done, those that are.
Results = Mapping[Arm, Sequence[Result]]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A repetition of a table or a figure of the paper.

    Attributes:
      name: the argument of `switch-tf reproduce`.
      reproduces: the table or figure it reproduces.
      arms: the arms in running order (see `in_order`). An arm comes after the one it starts from.
      metrics: the metrics of each model, one column of the table each.
      paper: model -> metric name -> the paper's figure.
      claims: the paper's claims, each with the rule that judges it.
      folder: the folder in `runs/` for its runs, if other than its name: experiments of one folder
        share the runs of the arms that they share, and keep all results in `docs/results`.
      has_core_each: whether a run has one core, and as many train at a time as there are cores: for
        small models, on which several cores gain little. So it is where a folder is shared.
      pretraining: the task whose NLP pictures show.
      picture: the picture of the report, of `pictures.draw`; "" for none.
      experts: model -> its number of experts, 1 of the dense model, where the report sets the
        exponent of loss by experts beside the paper's; empty for none.
      brings_data: whether its tasks' data are not in the package: the user names their folder.
      data_dir: that folder; None finds them in TFDS.
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
    claims: Sequence[Claim]
    folder: str = ""
    has_core_each: bool = False
    pretraining: str = "pydocs_span_corruption"
    picture: str = ""
    experts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    brings_data: bool = False
    data_dir: str | None = None
    report: str = "report"
    variants: Mapping[str, Experiment] = dataclasses.field(default_factory=dict)
    size: str = ""

    def __post_init__(self):
        """Checks that no two runs share a folder.

        Raises:
          UserError: names of models differ only in case or punctuation, or an arm is there twice.
        """
        found = {}
        for run in itertools.chain(*self.runs(Path(), Path()).values()):
            other = found.setdefault(run.model_dir, run)
            if other is not run:
                raise UserError(
                    f"experiment '{self.name}': '{other.name}' and '{run.name}' share the folder "
                    f"{run.model_dir}: give models names that differ in letters or digits"
                )

    @property
    def is_shared(self) -> bool:
        """Whether it shares arms and results with others."""
        return bool(self.folder)

    def at_once(self, cores: int) -> int:
        """How many of its runs train at a time on so many cores."""
        return cores if self.has_core_each or self.is_shared else 1

    def runs(self, folder: Path, results: Path) -> Runs:
        """Arm -> its runs in the order of its seeds; see `Arm.runs`."""
        bindings = {} if self.data_dir is None else {"DATA_DIR": self.data_dir}
        return {arm: arm.runs(folder, results, bindings) for arm in self.arms}

    def measure(self, results: Results) -> Measurements:
        """Model -> metric name -> one value per seed, from the arm that has the metric."""
        found = {arm.model: {} for arm in self.arms}
        for metric in self.metrics:
            for arm, of_seeds in results.items():
                values = [
                    value for result in of_seeds if (value := metric.read(result)) is not None
                ]
                if values:
                    found[arm.model][metric.name] = values
        return found
