"""The page docs/planned.md: what the planner says of the paper's own runs, beside the paper.

The speeds of Table 1, to which the planner's one efficiency is fitted, and the layouts of Switch-C
and Switch-XXL among all that fit their cores. All from shapes alone.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import gin

from switch_tf import config
from switch_tf.data.task_data import TaskData
from switch_tf.metrics.tables import markdown, size
from switch_tf.planner import ranking
from switch_tf.planner.counts import Counts
from switch_tf.planner.estimate import EFFICIENCY, Estimate, PaperStep
from switch_tf.planner.plan import paper_step
from switch_tf.planner.slices import CHIPS, PRICES, Slice
from switch_tf.setup.mesh_model import ModelSetup

_BATCH = "BATCH_SIZE=2048"


class Speed(NamedTuple):
    """A row of the paper's Table 1.

    Attributes:
      name: the model's name there.
      file: its file in gin/models, without `.gin`.
      bindings: gin settings applied on top of the file.
      examples: examples a second on 32 cores of TPUv3.
    """

    name: str
    file: str
    bindings: tuple[str, ...]
    examples: int


def _of_capacity(name: str, file: str, factor: float, examples: int) -> Speed:
    return Speed(f"{name}, {factor}", file, (f"CAPACITY_FACTOR={factor}",), examples)


TABLE1 = (
    Speed("T5-Base", "t5_base", (), 1600),
    Speed("T5-Large", "t5_large", (), 470),
    _of_capacity("MoE-Base", "moe_base", 2.0, 840),
    _of_capacity("Switch-Base", "switch_base", 2.0, 860),
    _of_capacity("MoE-Base", "moe_base", 1.25, 790),
    _of_capacity("Switch-Base", "switch_base", 1.25, 910),
    _of_capacity("MoE-Base", "moe_base", 1.0, 860),
    _of_capacity("Switch-Base", "switch_base", 1.0, 1000),
    _of_capacity("Switch-Base+", "switch_base_plus", 1.0, 780),
)
_DENSE, _SPARSE = ("data", "model_data"), ("expert_data", "expert_model_data")
_BASIS = "Switch-Base, 1.0"


class Giant(NamedTuple):
    """A model of the paper whose layout is looked for.

    Attributes:
      name: its name in the paper.
      file: its file in gin/models, without `.gin`.
      bindings: gin settings applied on top of the file.
      slice: as many cores as it had.
      layout: the paper's.
    """

    name: str
    file: str
    bindings: tuple[str, ...]
    slice: str
    layout: str


GIANTS = (
    Giant("Switch-C", "switch_c", (), "v3-2048", "expert_data"),
    Giant("Switch-XXL, 64 experts", "switch_xxl", (), "v3-512", "expert_model_data"),
    Giant(
        "Switch-XXL, 128 experts",
        "switch_xxl",
        ("NUM_EXPERTS=128",),
        "v3-512",
        "expert_model_data",
    ),
)


def step_of(file: str, bindings: Sequence[str]) -> PaperStep:
    """A model's step with the paper's batch of 2^20 tokens, on one device."""
    try:
        config.load([f"models/{file}.gin", "runs/plan.gin"], [_BATCH, *bindings])
        setup, data = ModelSetup(), TaskData()
        counts = Counts.of(setup.model)
        return paper_step(counts, data, setup.optimizer(), setup.mesh_on_paper(data))
    finally:
        gin.clear_config()


def speeds() -> list[tuple[Speed, Estimate]]:
    """The rows of Table 1, each with the fastest estimate in its layout that fits v3-32."""
    on, found = Slice.parse("v3-32"), []
    for row in TABLE1:
        step = step_of(row.file, row.bindings)
        layouts = _DENSE if row.file.startswith("t5") else _SPARSE
        choices = ranking.rank(step, on, layouts).choices
        found.append((row, choices[0].estimate))
    return found


def fitted(found: Sequence[tuple[Speed, Estimate]]) -> float:
    """The efficiency with which the mean deviation from Table 1 is none, by logarithms."""
    logs = [
        math.log(row.examples * sum(one.roofline.values()) / one.step.sizes.data.batch_size)
        for row, one in found
    ]
    return math.exp(sum(logs) / len(logs))
