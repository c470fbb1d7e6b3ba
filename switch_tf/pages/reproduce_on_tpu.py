"""The page docs/reproduce_on_tpu.md: what the paper's own runs cost on TPUs, by the planner.

For each table and figure, the runs that `switch-tf reproduce run NAME --scale=paper` writes, in the
order of claims that a chip-hour decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from switch_tf.metrics.tables import markdown
from switch_tf.planner.slices import PRICES, Slice
from switch_tf.reproduce import paper_scale
from switch_tf.reproduce.experiments.paper_arms import ARMS
from switch_tf.reproduce.paper_slices import TYPE, Costs
from switch_tf.reproduce.registry import EXPERIMENTS
from switch_tf.reproduce.training_run import TrainingRun

_INTRO = f"""# The paper's tables on TPUs

What it takes to run the paper's own experiments, of its sizes, steps and batches, by the planner,
on cores of TPU v3, as in the paper. Nothing of this was run: no TPU was at hand.
[planned.md](planned.md) says how far the planner's seconds are from those that the paper prints.
Written from shapes alone by `python -m switch_tf.pages reproduce_on_tpu`.

Each row of the first table is a table or figure of the paper. Its runs are written by

```
switch-tf reproduce run NAME --scale=paper --output_dir=paper/NAME
```

a gin file for each, and `commands.sh` with their commands, in an order in which each finds the
checkpoints that it needs. The files hold all that a run needs to fit its slice, as the tables below
have it: mesh and layout, micro-batches, and whether activations are made again. These are the
paper's where they fit and Google has a slice of so many cores: a run of the paper's with fewer than
8 or with 16 cores is on the next larger slice here, on another mesh. In the tables, "parts" is
TrainStep.microbatches, and "made again" TransformerEncoderDecoder.rematerialize.

The machines of a slice get the project from a commit, so commit the files. Then, for a FILE of the
tables below, on its slice ([tpu.md](tpu.md) has what the project, the bucket and the data need):

```
git add paper/NAME && git commit -m "Runs of NAME"
scripts/tpu/supervise.sh switch-run --type=SLICE --project=my-project --zone=us-east1-d -- \\
  train --gin_file=paper/NAME/FILE --gin.MODEL_DIR="'gs://my-bucket/paper/MODEL/KIND'" \\
  --gin.VOCABULARY_PATH="'gs://my-bucket/t5.model'" --gin.USE_CACHED_TASKS=True \\
  --gin.CACHE_DIR="'gs://my-bucket/cache'"
```

MODEL/KIND is the folder that `commands.sh` gives MODEL_DIR. A run that starts from another's model
or has a teacher needs `--gin.INITIAL_CHECKPOINT_PATH` or `--gin.TEACHER_PATH`, too, which
`commands.sh` has. The cache is of the tasks that a run trains on ([tasks.md](tasks.md)).

Chip-hours are of training; evaluations and decoding are not counted. Dollars are at
{{dollars:.2f}} a chip-hour: {PRICES}.

Rows are in the order in which one would run them: next is the one with the most claims per
chip-hour of runs that no row above it has. Claims are those of the project's experiment of this
name ([reproducing.md](reproducing.md)).
"""


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
    price = Slice.parse(f"{TYPE}-8").chip.dollars
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


def cells(run: TrainingRun, costs: Costs, price: float) -> tuple[str, ...]:
    """The cells of a run's row; `price` is the dollars of a chip-hour."""
    cost = costs.of(run)
    step = cost.estimate.step
    return (
        f"`{paper_scale.file_name(run)}`",
        cost.estimate.slice.name,
        cost.layout,
        cost.run.bindings["MESH_SHAPE"],
        str(step.sizes.microbatches),
        "yes" if step.rematerialize else "no",
        f"{cost.steps:,}",
        f"{cost.seconds:.3g}",
        f"{cost.hours:,.0f}",
        f"{cost.chip_hours:,.0f}",
        f"{cost.chip_hours * price:,.0f}",
    )


def _section(row: Row, costs: Costs, price: float) -> Iterator[str]:
    yield from ("", f"## {row.name}", "", f"{EXPERIMENTS[row.name].reproduces}.", "")
    if not row.new:
        yield "Its runs are all above."
        return
    table: list[tuple] = [
        (
            *("FILE", "slice", "layout", "MESH_SHAPE", "parts", "made again"),
            *("steps", "s a step", "hours", "chip-hours", "dollars"),
        )
    ]
    table += [cells(run, costs, price) for run in row.new]
    yield from markdown(table)
    others = len(row.runs) - len(row.new)
    if others:
        yield ""
        yield f"And {others} of the rows above."


def write(folder: Path) -> None:
    """Writes reproduce_on_tpu.md into `folder`."""
    text = "\n".join(lines()).rstrip() + "\n"
    (folder / "reproduce_on_tpu.md").write_text(text, encoding="utf-8")
