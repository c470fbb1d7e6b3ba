"""The page docs/planned.md: what the planner says of the paper's own runs, beside the paper.

The speeds of Table 1, to which the planner's one efficiency is fitted, and the layouts of Switch-C
and Switch-XXL among all that fit their cores. All from shapes alone.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from switch_tf import config
from switch_tf.data.task_data import TaskData
from switch_tf.metrics.tables import markdown, size
from switch_tf.planner import ranking
from switch_tf.planner.counts import Counts
from switch_tf.planner.estimate import EFFICIENCY, Estimate, PaperStep
from switch_tf.planner.plan import paper_step
from switch_tf.planner.slices import CHIPS, PRICES, Slice
from switch_tf.reproduce.experiment import Arm
from switch_tf.reproduce.experiments import mini, quality
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


def _examples(arm: Arm) -> int:
    """The paper's examples a second of the model that an arm repeats."""
    return quality.TABLE1.paper[arm.model][mini.EXAMPLES.name]


def _of_capacity(name: str, file: str, factor: float, arm: Arm) -> Speed:
    return Speed(f"{name}, {factor}", file, (f"CAPACITY_FACTOR={factor}",), _examples(arm))


TABLE1 = (
    Speed("T5-Base", "t5_base", (), _examples(mini.T5)),
    Speed("T5-Large", "t5_large", (), _examples(mini.LARGE)),
    *(
        _of_capacity(name, file, factor, arms[factor])
        for factor in (2.0, 1.25, 1.0)
        for name, file, arms in (
            ("MoE-Base", "moe_base", quality.MOE),
            ("Switch-Base", "switch_base", quality.CAPACITY),
        )
    ),
    _of_capacity("Switch-Base+", "switch_base_plus", 1.0, quality.PLUS),
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
LARGER = Giant(
    "Switch-C, eight times the batch",
    "switch_c",
    ("BATCH_SIZE=16384",),
    "v3-2048",
    "expert_data",
)
# Of Table 9.
_STEPS = 500_000


def step_of(file: str, bindings: Sequence[str]) -> PaperStep:
    """A model's step with the paper's batch of 2^20 tokens, on one device."""
    with config.loaded([f"models/{file}.gin", "runs/plan.gin"], [_BATCH, *bindings]):
        setup, data = ModelSetup(), TaskData()
        counts = Counts.of(setup.model)
        return paper_step(counts, data, setup.optimizer(), setup.mesh_on_paper(data))


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


_INTRO = """# What the planner says of the paper's runs

`switch-tf plan --slice=NAME` says from shapes alone what a training step needs of a slice of TPUs,
and how long it takes ([planning.md](planning.md#on-a-slice-of-tpus)). No TPU was at hand: bytes
and collectives are compared with steps that were compiled for eight CPU devices, but seconds only
with those that the paper prints. This page is that comparison. It is written by
`python -m switch_tf.pages planned`.

## Slices

The planner's figures of each type, of one chip:
"""

_AFTER_SLICES = f"""
float32 has the rate of bfloat16, because a TPU multiplies it so unless it is asked for more
precision. A slice is taken for a torus with sides as equal as possible; a side closes to a ring in
whole pods of v2, v3, v5e and v6e, and in v4 and v5p where all sides are multiples of 4. The number
in a slice's name counts TensorCores in v2, v3, v4 and v5p, and chips in v5e and v6e; a device of a
mesh is a TensorCore in v2 and v3, and a chip in the others. So v3-32 is 16 chips and 32 devices,
v4-32 16 chips and 16 devices. Past the size of a pod the torus is taken to go on, as on no
machine. Dollars are of a chip-hour: {PRICES}. They leave out hosts' disks,
storage and network.

## Table 1

The paper's models on v3-32 with {2**20:,} tokens a batch, each in the layout, number of
micro-batches and rematerialisation that the planner finds fastest of what fits. Time is that of a
roofline by parts, divided by one efficiency, {EFFICIENCY}, for all rows: with it, the mean
deviation (of logarithms) is none. "x" is the speed over that of {_BASIS}.
"""

_SWITCH, _MOE = "Switch-Base", "MoE-Base"
# What the deviations tell; the figures are those of the rows.
_TOLD = (
    "- **Switch-Base and Switch-Base+** come out within {switch:.0%}, at three capacity factors: "
    "what capacity costs is slots and one-hot dispatch, whose products are a fifth or more of all.",
    "- **MoE-Base** is {moe[1.25]:.0%} slower in the paper than planned at capacity 1.25, and "
    "{moe[1.0]:.0%} at 1.0, although it has as many slots as Switch-Base. On paper a second choice "
    "only adds to the work of the router. The paper's own order, in which 1.25 is slower than 2.0, "
    "follows from no count of operations.",
    "- **T5-Base** is {base:.0%} faster in the paper than planned, and **T5-Large** {large:.0%}. "
    "What is counted here is this project's step: it keeps norms, queries and keys in float32, and "
    "reduces gradients once a micro-batch. So T5-Large fits only with rematerialisation, a third "
    "more products, or with so many micro-batches that they take longer. How the paper's code "
    "divided a batch is not published.",
)
_RATIOS = (
    "So the planner's ratio of two models can be off by {models.off:.0%}: {models}. That of two "
    "capacity factors of Switch-Base can be off by {factors.off:.0%}: {factors}."
)

_LAYOUTS = """
## The layouts of Switch-C and Switch-XXL

Every mesh and layout of as many cores of TPUv3 as the paper's models had, with a batch of 2^20
tokens. What is not there does not fit, or its sizes do not divide.
"""

_AFTER_GIANTS = """
- **Switch-XXL** fits in the paper's layout alone: experts, model and data. The paper does not
  print its mesh.
- **Switch-C** fits in the paper's layout, experts with data, but two meshes with a few ways of
  model parallelism are faster. With 2,048 shards of 2^20 tokens a group has 512 tokens, of which
  an expert of 2,048 takes at least Router.min_capacity = 2: eight slots a token instead of 1.25.
  Fewer shards form larger groups. With eight times the batch, groups have 4,096 tokens, and the
  paper's layout is the fastest:
"""


def slices() -> Iterator[tuple[str, ...]]:
    """Rows of a table of the types of chips."""
    yield (
        *("type", "TensorCores", "devices", "TFLOP/s", "memory", "GB/s", "torus", "GB/s a link"),
        *("dollars", "source"),
    )
    for chip in CHIPS.values():
        yield (
            chip.name,
            str(chip.cores),
            str(chip.devices),
            f"{chip.flops['bfloat16'] / 1e12:.0f}",
            size(chip.memory_bytes),
            f"{chip.memory_bandwidth / 1e9:.0f}",
            f"{chip.torus}D",
            f"{chip.link_bandwidth / 1e9:.0f}",
            f"{chip.dollars:.2f}",
            chip.source,
        )


def ratios(found: Sequence[tuple[Speed, Estimate]]) -> Iterator[tuple[str, ...]]:
    """Rows of a table of speeds: the paper's, the planner's, and how far they are apart."""
    basis = next((row, one) for row, one in found if row.name == _BASIS)
    yield (
        *("model, capacity factor", "paper, examples/s", "x", "planned, examples/s", "x"),
        *("deviation", "of x", "products", "memory", "links", "parts", "made again"),
    )
    for row, one in found:
        planned = one.examples_per_second
        x = row.examples / basis[0].examples, planned / basis[1].examples_per_second
        products, memory, *links = (seconds for seconds in one.roofline.values())
        yield (
            row.name,
            f"{row.examples:,}",
            f"{x[0]:.2f}",
            f"{planned:,.0f}",
            f"{x[1]:.2f}",
            f"{planned / row.examples - 1:+.1%}",
            f"{x[1] / x[0] - 1:+.1%}",
            *(f"{seconds:.2f} s" for seconds in (products, memory, sum(links))),
            str(one.step.sizes.microbatches),
            "yes" if one.step.rematerialize else "no",
        )


class Off(NamedTuple):
    """Two rows of Table 1 whose ratio the planner gets wrong.

    Attributes:
      slow: the row whose speed is over that of the other.
      fast: the other.
      planned: the planner's ratio of their speeds.
      paper: the paper's.
    """

    slow: str
    fast: str
    planned: float
    paper: float

    @property
    def off(self) -> float:
        """How far the planner's ratio is below the paper's, as a share of it."""
        return 1 - self.planned / self.paper

    def __str__(self) -> str:
        slow, fast = (name.replace(", ", " at ") for name in (self.slow, self.fast))
        return (
            f"{slow} has {self.paper:.2f} of the speed of {fast} in the paper, and "
            f"{self.planned:.2f} here"
        )


def furthest(found: Sequence[tuple[Speed, Estimate]], of: str = "") -> Off:
    """The two rows whose ratio is furthest from the paper's, of those whose names begin so."""
    rows = [
        (one.examples_per_second / row.examples, row.name, one.examples_per_second, row.examples)
        for row, one in found
        if row.name.startswith(of)
    ]
    (_, slow, *slower), (_, fast, *faster) = min(rows), max(rows)
    return Off(slow, fast, slower[0] / faster[0], slower[1] / faster[1])


def told(found: Sequence[tuple[Speed, Estimate]]) -> Iterator[str]:
    """The lines on what the deviations tell."""
    # The paper's speed over the planner's.
    faster = {row.name: row.examples / one.examples_per_second - 1 for row, one in found}
    figures = {
        "switch": max(
            abs(1 / (1 + value) - 1) for name, value in faster.items() if name.startswith(_SWITCH)
        ),
        "moe": {name.partition(", ")[2]: -f for name, f in faster.items() if name.startswith(_MOE)},
        "base": faster["T5-Base"],
        "large": faster["T5-Large"],
    }
    yield from ("What the deviations tell:", "")
    for text in _TOLD:
        yield from textwrap.wrap(text.format(**figures), 100, subsequent_indent="  ")
    yield ""
    off = {"models": furthest(found), "factors": furthest(found, f"{_SWITCH}, ")}
    yield from textwrap.wrap(_RATIOS.format(**off), 100)


def _ranked(giant: Giant) -> Iterator[str]:
    found = ranking.rank(step_of(giant.file, giant.bindings), Slice.parse(giant.slice))
    layouts = [choice.layout for choice in found.choices]
    place = layouts.index(giant.layout) + 1
    yield f"### {giant.name} on {giant.slice}"
    yield ""
    yield f"The paper's layout, `{giant.layout}`, is number {place} of {len(layouts)}."
    yield ""
    yield from markdown(ranking.rows(found, _STEPS))
    yield ""


def lines() -> Iterator[str]:
    """The lines of the page."""
    yield from _INTRO.splitlines()
    yield ""
    yield from markdown(slices())
    yield from _AFTER_SLICES.splitlines()
    yield ""
    found = speeds()
    yield from markdown(ratios(found))
    yield ""
    yield from told(found)
    yield from _LAYOUTS.splitlines()
    yield ""
    for giant in GIANTS:
        yield from _ranked(giant)
    yield from _AFTER_GIANTS.strip().splitlines()
    yield ""
    yield from _ranked(LARGER)


def write(folder: Path) -> None:
    """Writes planned.md into `folder`."""
    text = "\n".join(lines()).rstrip() + "\n"
    (folder / "planned.md").write_text(text, encoding="utf-8")
