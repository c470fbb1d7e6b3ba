"""The page docs/reproduce_on_tpu.md: what the paper's own runs cost on TPUs, by the planner.

For each table and figure, the runs that `switch-tf reproduce run NAME --scale=paper` writes, in the
order of claims that a chip-hour decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin

from switch_tf import config
from switch_tf.data.task_data import TaskData
from switch_tf.mesh import Mesh
from switch_tf.metrics.tables import markdown
from switch_tf.planner import ranking
from switch_tf.planner.counts import Counts
from switch_tf.planner.estimate import Estimate, PaperStep
from switch_tf.planner.plan import paper_step
from switch_tf.planner.slices import PRICES, Slice
from switch_tf.reproduce import paper_scale
from switch_tf.reproduce.experiments.paper_arms import ARMS
from switch_tf.reproduce.registry import EXPERIMENTS
from switch_tf.reproduce.training_run import TrainingRun, gin_text
from switch_tf.setup.mesh_model import ModelSetup

# What decides what a model's step takes, beside its file.
_OF_MODEL = ("DTYPE", "NUM_EXPERTS", "CAPACITY_FACTOR", "GROUPS_MULTIPLE")
_DROPOUT = ("DROPOUT_RATE", "EXPERT_DROPOUT_RATE")
_CLASSES = ("TransformerEncoderDecoder.", "SwitchFFN.", "SwitchRouter.")
_TYPE = "v3"

_INTRO = f"""# The paper's tables on TPUs

What it takes to run the paper's own experiments, of its sizes, steps and batches, by the planner,
on cores of TPU v3, as in the paper. Nothing of this was run: no TPU was at hand.
[planned.md](planned.md) says how far the planner's seconds are from those that the paper prints.
Written from shapes alone by `python -m switch_tf.pages reproduce_on_tpu`.

Each row of the first table is a table or figure of the paper. Its runs and their commands are
written by

```
switch-tf reproduce run NAME --scale=paper --output_dir=runs/paper/NAME
```

a gin file for each run, and `commands.sh`, which trains them in order with `ROOT` and `VOCABULARY`
set. Each command has this form, with the flags of the tables below, which the files leave out, in
place of the dots:

```
switch-tf train --gin_file=FILE --gin.MODEL_DIR="'$ROOT/MODEL/KIND'" \\
  --gin.VOCABULARY_PATH="'$VOCABULARY'" ...
```

Chip-hours are of training; evaluations and decoding are not counted. Dollars are at
{{dollars:.2f}} a chip-hour: {PRICES}.

Rows are in the order in which one would run them: next is the one with the most claims per
chip-hour of runs that no row above it has. Claims are those of the project's experiment of this
name ([reproducing.md](reproducing.md)).
"""


class Cost(NamedTuple):
    """What a run takes.

    Attributes:
      estimate: its step.
      flags: what has to be added to its command, so that it fits.
      steps: its steps.
      teacher: seconds that a teacher's forward pass adds to a step.
    """

    estimate: Estimate
    flags: tuple[str, ...]
    steps: int
    teacher: float

    @property
    def hours(self) -> float:
        """Hours of the run."""
        return self.steps * (self.estimate.seconds + self.teacher) / 3600

    @property
    def chip_hours(self) -> float:
        """Hours of its chips."""
        return self.hours * self.estimate.slice.chips


class Costs:
    """The costs of runs; each model is counted once."""

    def __init__(self):
        """Counts none yet."""
        self._steps: dict[str, PaperStep] = {}
        self._costs: dict[Path, Cost] = {}

    def of(self, run: TrainingRun) -> Cost:
        """What a run takes, in its own layout if any mesh of it fits."""
        if run.model_dir not in self._costs:
            self._costs[run.model_dir] = self._count(run)
        return self._costs[run.model_dir]

    def _count(self, run: TrainingRun) -> Cost:
        settings = _settings(run)
        step, mesh = self._step(run, settings), Mesh.on_paper(settings["MESH_SHAPE"])
        on = Slice.parse(f"{_TYPE}-{max(mesh.size, 2)}")
        layout = Path(run.gin_files[1]).stem
        found = ranking.plan_mesh(step, settings["MESH_SHAPE"], settings["LAYOUT_RULES"], on)
        flags = []
        if found is None:
            choice = ranking.rank(step, on).choices[0]
            found = choice.estimate
            flags.append(f"MESH_SHAPE={choice.mesh_shape!r}")
            if choice.layout != layout:
                flags.append(f"LAYOUT_RULES={ranking.rules_of(choice.layout)!r}")
            shards = found.step.sizes.mesh.ways("batch")
            if settings.get("GROUPS_MULTIPLE", shards) % shards:
                flags.append(f"GROUPS_MULTIPLE={shards}")
        if found.step.sizes.microbatches > 1:
            flags.append(f"TrainStep.microbatches={found.step.sizes.microbatches}")
        if found.step.rematerialize:
            flags.append("TransformerEncoderDecoder.rematerialize=True")
        teacher = self._teacher(run, found)
        return Cost(found, tuple(flags), settings["TRAIN_STEPS"], teacher)

    def _step(self, run: TrainingRun, settings: Mapping[str, Any]) -> PaperStep:
        """A run's step, on one device."""
        model = run.gin_files[0]
        kept = {
            name: value
            for name, value in run.bindings.items()
            if name in _OF_MODEL or name.startswith(_CLASSES)
        }
        # Dense models read only the first.
        names = _DROPOUT[:1] if "NUM_EXPERTS" not in settings else _DROPOUT
        kept |= {name: settings[name] for name in names}
        key = f"{model} {kept}"
        if key not in self._steps:
            bindings = [f"{name}={gin_text(value)}" for name, value in kept.items()]
            try:
                config.load([model, "runs/plan.gin"], bindings)
                setup, data = ModelSetup(), TaskData()
                counts = Counts.of(setup.model)
                mesh = Mesh.on_paper("batch:1")
                self._steps[key] = paper_step(counts, data, setup.optimizer(), mesh)
            finally:
                gin.clear_config()
        step = self._steps[key]
        lengths, batch_size = settings["TASK_FEATURE_LENGTHS"], settings["BATCH_SIZE"]
        data = TaskData(task_feature_lengths=lengths, batch_size=batch_size)
        return dataclasses.replace(step, sizes=dataclasses.replace(step.sizes, data=data))

    def _teacher(self, run: TrainingRun, student: Estimate) -> float:
        """Seconds of the forward pass of a run's teacher, in the parts of the student's batch."""
        if "TEACHER_PATH" not in run.bindings:
            return 0.0
        teacher = next(
            one for one in run.needs if str(one.model_dir) == run.bindings["TEACHER_PATH"]
        )
        settings = _settings(run)
        step = self._step(teacher, settings)
        sizes = dataclasses.replace(student.step.sizes, model=step.sizes.model)
        with ranking.grouped_for(step, sizes.mesh):
            found = Estimate(dataclasses.replace(step, sizes=sizes), student.slice)
            return found.forward_seconds


def _settings(run: TrainingRun) -> Mapping[str, Any]:
    """The settings of a run's files and flags."""
    return config.precheck(run.gin_files, [*run.binding_strings, "VOCABULARY_PATH='t5.model'"])


class Row(NamedTuple):
    """A table or figure of the paper.

    Attributes:
      name: the experiment's.
      runs: all its runs.
      new: those that no row above it has.
      claims: how many claims it decides.
    """

    name: str
    runs: Sequence[TrainingRun]
    new: Sequence[TrainingRun]
    claims: int


def ordered(costs: Costs) -> Iterator[Row]:
    """The tables and figures, next the one with the most claims per chip-hour of new runs."""
    left = {name: paper_scale.runs(name) for name in ARMS}
    done: set[Path] = set()
    while left:
        found = []
        for name, runs in left.items():
            new = [run for run in runs if run.model_dir not in done]
            hours = sum(costs.of(run).chip_hours for run in new)
            claims = len(EXPERIMENTS[name].claims)
            # Without new runs, its claims cost nothing.
            found.append(
                (-claims / hours if hours else float("-inf"), Row(name, runs, new, claims))
            )
        _, row = min(found, key=lambda pair: pair[0])
        done.update(run.model_dir for run in row.new)
        del left[row.name]
        yield row


def lines() -> Iterator[str]:
    """The lines of the page."""
    costs = Costs()
    price = Slice.parse(f"{_TYPE}-8").chip.dollars
    rows = [*ordered(costs)]
    yield from _INTRO.format(dollars=price).splitlines()
    yield ""
    heading = ("name", "claims", "runs", "new runs", "their chip-hours", "dollars")
    table: list[tuple] = [(*heading, "dollars so far")]
    spent = 0.0
    for row in rows:
        hours = sum(costs.of(run).chip_hours for run in row.new)
        spent += hours * price
        counts = (row.claims, len(row.runs), len(row.new))
        table.append((row.name, *counts, *(f"{n:,.0f}" for n in (hours, hours * price, spent))))
    yield from markdown(table)
    for row in rows:
        yield from _section(row, costs, price)


def _section(row: Row, costs: Costs, price: float) -> Iterator[str]:
    yield from ("", f"## {row.name}", "", f"{EXPERIMENTS[row.name].reproduces}.", "")
    if not row.new:
        yield "Its runs are all above."
        return
    table: list[tuple] = [
        ("FILE", "slice", "steps", "s a step", "hours", "chip-hours", "dollars", "FLAGS")
    ]
    for run in row.new:
        cost = costs.of(run)
        seconds = cost.estimate.seconds + cost.teacher
        figures = (f"{seconds:.3g}", f"{cost.hours:,.0f}", f"{cost.chip_hours:,.0f}")
        flags = " ".join(f"`--gin.{flag}`" for flag in cost.flags)
        name = f"`{paper_scale.file_name(run)}`"
        dollars = f"{cost.chip_hours * price:,.0f}"
        table.append((name, cost.estimate.slice.name, f"{cost.steps:,}", *figures, dollars, flags))
    yield from markdown(table)
    others = len(row.runs) - len(row.new)
    if others:
        yield ""
        yield f"And {others} of the rows above."


def write(folder: Path) -> None:
    """Writes reproduce_on_tpu.md into `folder`."""
    text = "\n".join(lines()).rstrip() + "\n"
    (folder / "reproduce_on_tpu.md").write_text(text, encoding="utf-8")
