"""The slices of the paper's own runs, and what they take there, by the planner.

A run has the paper's mesh and layout where Google has a slice of so many cores of TPU v3 and they
fit it, and otherwise the fastest that fit the next larger slice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from switch_tf import config
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.mesh import Mesh
from switch_tf.planner import ranking
from switch_tf.planner.counts import Counts
from switch_tf.planner.estimate import Estimate, PaperStep
from switch_tf.planner.plan import paper_step
from switch_tf.planner.slices import Slice
from switch_tf.reproduce.training_run import TrainingRun, gin_text
from switch_tf.setup.mesh_model import ModelSetup

TYPE = "v3"
# Cores of the slices of TPU v3 that Google has (docs.cloud.google.com/tpu/docs/v3).
SIZES = (8, 32, 64, 128, 256, 512, 1024, 2048)
# What decides what a model's step takes, beside its file.
_OF_MODEL = ("DTYPE", "NUM_EXPERTS", "CAPACITY_FACTOR", "GROUPS_MULTIPLE")
_DROPOUT = ("DROPOUT_RATE", "EXPERT_DROPOUT_RATE")
_CLASSES = ("TransformerEncoderDecoder.", "SwitchFFN.", "SwitchRouter.")


class Cost(NamedTuple):
    """What a run takes.

    Attributes:
      run: the run, with the settings with which it fits its slice.
      layout: the name of its file in gin/layouts.
      estimate: its step.
      steps: its steps.
      teacher: seconds that a teacher's forward pass adds to a step.
    """

    run: TrainingRun
    layout: str
    estimate: Estimate
    steps: int
    teacher: float

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return self.estimate.seconds + self.teacher

    @property
    def hours(self) -> float:
        """Hours of the run."""
        return self.steps * self.seconds / 3600

    @property
    def chip_hours(self) -> float:
        """Hours of its chips."""
        return self.hours * self.estimate.slice.chips


class Costs:
    """The costs of runs; each model is counted once. TensorFlow must be started."""

    def __init__(self):
        """Counts none yet."""
        self._steps: dict[str, PaperStep] = {}
        self._costs: dict[Path, Cost] = {}

    def of(self, run: TrainingRun) -> Cost:
        """What a run of `paper_scale.runs` takes.

        Raises:
          UserError: it fits no slice.
        """
        if run.model_dir not in self._costs:
            self._costs[run.model_dir] = self._count(run)
        return self._costs[run.model_dir]

    def _count(self, run: TrainingRun) -> Cost:
        settings = _settings(run)
        step, mesh_shape = self._step(run, settings), settings["MESH_SHAPE"]
        cores, found = Mesh.on_paper(mesh_shape).size, None
        model, layout, *others = run.gin_files
        if cores in SIZES:
            on = Slice.parse(f"{TYPE}-{cores}")
            found = ranking.plan_mesh(step, mesh_shape, settings["LAYOUT_RULES"], on)
        if found is None:
            choice = _fastest(run, step, cores)
            layout, mesh_shape = f"layouts/{choice.layout}.gin", choice.mesh_shape
            found = choice.estimate
        planned = dataclasses.replace(
            run,
            gin_files=(model, layout, *others),
            bindings={**run.bindings, "MESH_SHAPE": mesh_shape, **_fitting(found, settings)},
        )
        teacher = self._teacher(run, found)
        return Cost(planned, Path(layout).stem, found, settings["TRAIN_STEPS"], teacher)

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
            with config.loaded([model, "runs/plan.gin"], bindings):
                setup, data = ModelSetup(), TaskData()
                counts = Counts.of(setup.model)
                mesh = Mesh.on_paper("batch:1")
                self._steps[key] = paper_step(counts, data, setup.optimizer(), mesh)
        step = self._steps[key]
        data = _data(settings)
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


def _data(settings: Mapping[str, Any]) -> TaskData:
    """The sizes of a run's batches."""
    names = ("TASK_FEATURE_LENGTHS", "BATCH_SIZE")
    bindings = [f"{name}={gin_text(settings[name])}" for name in names]
    with config.loaded(["runs/plan.gin"], bindings):
        return TaskData()


def _fastest(run: TrainingRun, step: PaperStep, cores: int) -> ranking.Choice:
    """The fastest mesh and layout of the smallest slice, of at least so many cores, that has one.

    Raises:
      UserError: none has one.
    """
    for size in SIZES:
        if size >= cores:
            choices = ranking.rank(step, Slice.parse(f"{TYPE}-{size}")).choices
            if choices:
                return choices[0]
    raise UserError(f"{run.name} fits no slice of {TYPE}: give it a smaller batch or model")


def _fitting(found: Estimate, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings beside mesh and layout with which a step is the one that was estimated."""
    fitting: dict[str, Any] = {}
    shards = found.step.sizes.mesh.ways("batch")
    if settings.get("GROUPS_MULTIPLE", shards) % shards:
        fitting["GROUPS_MULTIPLE"] = shards
    if found.step.sizes.microbatches > 1:
        fitting["TrainStep.microbatches"] = found.step.sizes.microbatches
    if found.step.rematerialize:
        fitting["TransformerEncoderDecoder.rematerialize"] = True
    return fitting


def _settings(run: TrainingRun) -> Mapping[str, Any]:
    """The settings of a run's files and flags."""
    return config.precheck(run.gin_files, [*run.binding_strings, "VOCABULARY_PATH='t5.model'"])
