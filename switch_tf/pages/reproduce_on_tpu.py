"""The page docs/reproduce_on_tpu.md: what the paper's own runs cost on TPUs, by the planner.

For each table and figure, the runs that `switch-tf reproduce run NAME --scale=paper` writes, on the
meshes that it writes, in the order of claims that a chip-hour decides.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gin

from switch_tf import config
from switch_tf.data.task_data import TaskData
from switch_tf.metrics.tables import markdown
from switch_tf.planner import ranking
from switch_tf.planner.counts import Counts
from switch_tf.planner.estimate import Estimate
from switch_tf.planner.plan import paper_step
from switch_tf.planner.slices import PRICES, Slice
from switch_tf.reproduce import paper_scale
from switch_tf.reproduce.experiments.paper_arms import ARMS
from switch_tf.reproduce.registry import EXPERIMENTS
from switch_tf.reproduce.training_run import TrainingRun, gin_text
from switch_tf.setup.mesh_model import ModelSetup

# What of a run's settings decides what a step takes.
_MACROS = ("DTYPE", "NUM_EXPERTS", "CAPACITY_FACTOR", "BATCH_SIZE", "TASK_FEATURE_LENGTHS")
_GIVEN = ("TransformerEncoderDecoder.", "SwitchFFN.", "SwitchLayer.", "Router.", "SwitchRouter.")


class Cost(NamedTuple):
    """What a run takes.

    Attributes:
      estimate: its step, in the layout that fits.
      choice: the layout and mesh.
      as_written: whether these are what `--scale=paper` writes.
      steps: its steps.
      teacher: seconds that a teacher adds to a step.
    """

    estimate: Estimate
    choice: ranking.Choice
    as_written: bool
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

    @property
    def dollars(self) -> float:
        """Its price by the list."""
        return self.chip_hours * self.estimate.slice.chip.dollars
