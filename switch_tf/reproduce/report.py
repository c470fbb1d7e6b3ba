"""The report on an experiment: a table, its verdicts, an optional figure, and the data."""

from __future__ import annotations

import dataclasses
import datetime
import io
import itertools
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.figure

from switch_tf import storage
from switch_tf.metrics.tables import markdown
from switch_tf.reproduce.experiment import Experiment, Runs
from switch_tf.reproduce.training_run import TrainingRun


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of an experiment.

    Attributes:
      rows: the rows of the table, the heading first.
      verdicts: sentences that sum up the table.
      facts: environment, commit, date, settings and all measurements, as data.
      remark: a sentence under the table, or "".
      figure: the figure, if there is one.
    """

    rows: Sequence[Sequence[str]]
    verdicts: Sequence[str]
    facts: Mapping
    remark: str = ""
    figure: matplotlib.figure.Figure | None = None

    def table(self) -> str:
        """The table in Markdown, and the remark."""
        remark = ("", self.remark) if self.remark else ()
        return "\n".join((*markdown(self.rows, is_aligned=True), *remark))

    def write(self, folder: Path) -> list[str]:
        """Writes report.md, report.json and, if there is a figure, report.png.

        Returns:
          The names of the files written.
        """
        storage.write_atomically(folder / "report.md", self.table() + "\n")
        storage.write_json(folder / "report.json", self.facts)
        if self.figure is None:
            return ["report.md", "report.json"]
        picture = io.BytesIO()
        self.figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        storage.write_atomically(folder / "report.png", picture.getvalue())
        return ["report.md", "report.png", "report.json"]


def make(experiment: Experiment, runs: Runs) -> Report:
    """Reports finished runs: each metric of each model next to the paper's figure."""
    measured = experiment.measure(runs)
    heading = ["", *(text for m in experiment.metrics for text in (m.name, "the paper"))]
    rows = []
    for model, found in measured.items():
        row = [model]
        for metric in experiment.metrics:
            paper = experiment.paper.get(model, {}).get(metric.name)
            row += [_measured_text(found.get(metric.name, ()), metric.digits)]
            row += ["" if paper is None else f"{paper:,}"]
        rows.append(row)
    verdict = experiment.verdict(measured)
    lines = [
        f"{experiment.reproduces}: {experiment.claim}",
        f"refuted by: {experiment.refuted_by}",
        str(verdict),
    ]
    facts = facts_of(experiment, runs) | {"table": [heading, *rows]}
    remark = load_remark(itertools.chain(*runs.values()))
    return Report([heading, *rows], lines, facts, remark)


def load_remark(runs: Iterable[TrainingRun]) -> str:
    """A sentence on the runs whose speed other processes lowered; "" if there are none."""
    slowed = [f"{load.share:.0%} in {run.name}" for run in runs if (load := run.slowed_by())]
    if not slowed:
        return ""
    return (
        "Other processes used a part of the machine, so tokens/s are too low and times too long: "
        f"{'; '.join(slowed)}."
    )


def _measured_text(values: Sequence[float], digits: int) -> str:
    """The mean over seeds and the range, as text."""
    if not values:
        return ""
    text = f"{statistics.mean(values):,.{digits}f}"
    low, high = (f"{value:,.{digits}f}" for value in (min(values), max(values)))
    return text if len(values) == 1 else f"{text} ({low} to {high}, {len(values)} seeds)"


def facts_of(experiment: Experiment, runs: Runs) -> dict:
    """The data in every report: experiment, environment, runs, measurements and verdict."""
    measured = experiment.measure(runs)
    return {
        "experiment": experiment.name,
        "reproduces": experiment.reproduces,
        "claim": experiment.claim,
        "refuted_by": experiment.refuted_by,
        "verdict": dataclasses.asdict(experiment.verdict(measured)),
        "environment": environment(),
        "runs": {run.name: run.facts() for of_seeds in runs.values() for run in of_seeds},
        "sittings": {run.name: run.sittings() for of_seeds in runs.values() for run in of_seeds},
        "measured": measured,
        "paper": experiment.paper,
    }


def environment() -> dict[str, str]:
    """Commit, date, versions and processor."""
    import keras
    import tensorflow as tf

    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:
        # Git is not installed.
        commit = ""
    return {
        "commit": commit or "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()
