"""The report on an experiment: a table, its verdicts, an optional figure, and the data."""

from __future__ import annotations

import dataclasses
import io
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.figure

from switch_tf import storage
from switch_tf.metrics.tables import markdown
from switch_tf.reproduce import bootstrap, pictures, scaling
from switch_tf.reproduce.experiment import Experiment, Results
from switch_tf.reproduce.metrics import Metric
from switch_tf.reproduce.result import Result
from switch_tf.reproduce.training_run import gin_text


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of an experiment.

    Attributes:
      rows: the rows of the table, the heading first.
      verdicts: sentences that sum up the table.
      facts: environment, settings, verdicts and all measurements, as data.
      remark: sentences under the table, or "".
      figure: the figure, if there is one.
      page: the page that is kept, in Markdown; "" if it is the table and the verdicts.
    """

    rows: Sequence[Sequence[str]]
    verdicts: Sequence[str]
    facts: Mapping
    remark: str = ""
    figure: matplotlib.figure.Figure | None = None
    page: str = ""

    def table(self) -> str:
        """The table in Markdown, and the remark."""
        remark = ("", self.remark) if self.remark else ()
        return "\n".join((*markdown(self.rows, is_aligned=True), *remark))

    def write(self, folder: Path, name: str = "report") -> list[str]:
        """Writes NAME.md, NAME.json and, if there is a figure, NAME.png.

        Returns:
          The names of the files written.
        """
        text = self.page or "\n\n".join((self.table(), *self.verdicts))
        folder.mkdir(parents=True, exist_ok=True)
        storage.write_atomically(folder / f"{name}.md", text + "\n")
        storage.write_json(folder / f"{name}.json", self.facts)
        if self.figure is None:
            return [f"{name}.md", f"{name}.json"]
        picture = io.BytesIO()
        self.figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        storage.write_atomically(folder / f"{name}.png", picture.getvalue())
        return [f"{name}.md", f"{name}.png", f"{name}.json"]


def make(experiment: Experiment, results: Results) -> Report:
    """Reports finished runs: each metric of each model next to the paper's figure."""
    measured = experiment.measure(results)
    shown = [metric for metric in experiment.metrics if metric.is_shown]
    heading = ["", *(text for metric in shown for text in (metric.name, "the paper"))]
    rows = []
    for model, found in measured.items():
        row = [model]
        for metric in shown:
            paper = experiment.paper.get(model, {}).get(metric.name)
            row += [_measured_text(found.get(metric.name, ()), metric)]
            row += ["" if paper is None else metric.number(paper)]
        rows.append(row)
    report = Report(
        rows=[heading, *rows],
        verdicts=[
            experiment.reproduces,
            *(f"{claim.text}: {claim.rule(measured)}" for claim in experiment.claims),
        ],
        facts=facts_of(experiment, results) | {"table": [heading, *rows]},
        remark=_remark(experiment, results),
        figure=_picture(experiment, results),
    )
    if not experiment.is_shared:
        return report
    return dataclasses.replace(report, page=_page(experiment, results, report))


def _picture(experiment: Experiment, results: Results) -> matplotlib.figure.Figure | None:
    if not experiment.picture:
        return None
    return pictures.draw(experiment.picture, experiment, results)


def _remark(experiment: Experiment, results: Results) -> str:
    """Sentences under the table, or ""."""
    exponents = ""
    if experiment.experts:
        exponents = scaling.remark(experiment.experts, *pictures.sizes_and_nlp(experiment, results))
    return " ".join(filter(None, (exponents, load_remark(itertools.chain(*results.values())))))


def load_remark(results: Iterable[Result]) -> str:
    """A sentence on the runs whose speed other processes lowered; "" if there are none."""
    slowed = [f"{load.share:.0%} in {r.name}" for r in results if (load := r.slowed_by())]
    if not slowed:
        return ""
    return (
        "Other processes used a part of the machine, so tokens/s are too low and times too long: "
        f"{'; '.join(slowed)}."
    )


def _measured_text(values: Sequence[float], metric: Metric) -> str:
    """The mean over seeds, and their bootstrap interval or, of one seed, that it is one."""
    if not values:
        return ""
    text = metric.number(statistics.mean(values))
    if len(values) == 1:
        return f"{text} (1 seed)"
    if len(set(values)) == 1:
        return f"{text} ({len(values)} seeds)"
    low, high = map(metric.number, bootstrap.interval(bootstrap.mean, values))
    return f"{text} ({low} to {high}, {len(values)} seeds)"


def facts_of(experiment: Experiment, results: Results) -> dict:
    """The data in every report: experiment, runs, measurements and verdicts."""
    measured = experiment.measure(results)
    return {
        "experiment": experiment.name,
        "reproduces": experiment.reproduces,
        "claims": [
            {"claim": claim.text, "refuted_by": claim.refuted_by}
            | dataclasses.asdict(verdict := claim.rule(measured))
            | {"verdict": verdict.word}
            for claim in experiment.claims
        ],
        "runs": {
            result.name: {
                "facts": result.facts,
                "environment": result.environment,
                "sittings": result.sittings,
            }
            for of_seeds in results.values()
            for result in of_seeds
        },
        "measured": {
            model: {m.name: of[m.name] for m in experiment.metrics if m.is_shown and m.name in of}
            for model, of in measured.items()
        },
        "paper": experiment.paper,
    }


def _page(experiment: Experiment, results: Results, report: Report) -> str:
    """The page of a report that is kept, beside its picture."""
    measured = experiment.measure(results)
    found = list(itertools.chain(*results.values()))
    claims = [
        ("claim", "verdict", "why", "refuted by"),
        *(
            (claim.text, f"**{verdict.word}**", verdict.reason, claim.refuted_by)
            for claim in experiment.claims
            for verdict in (claim.rule(measured),)
        ),
    ]
    arms = [("model", "runs", "gin files", "flags")]
    for arm in experiment.arms:
        flags = " ".join(f"`{name}={gin_text(value)}`" for name, value in arm.bindings.items())
        runs = f"{len(results[arm])} of {max(len(arm.seeds), 1)}"
        arms.append((arm.model, runs, " ".join(f"`{f}`" for f in arm.gin_files), flags))
    parts = [
        f"# {experiment.reproduces}",
        "\n".join(markdown(claims)),
        report.table(),
        *([f"![]({experiment.name}.png)"] if report.figure else []),
        "Means over seeds, with 95% bootstrap intervals over seeds where there are several. A run "
        "has one core; runs of one experiment ran beside each other, one a core.",
        "## The runs",
        "\n".join(markdown(arms)),
        f"{len(found)} runs; {sum(result.core_hours for result in found):.1f} core-hours; "
        f"{_several('commit', (r.facts['versions']['commit'] or 'unknown' for r in found))}; "
        f"{_several('processor', (r.environment['processor'] for r in found))}; "
        f"{_dates(found)}. Run it again: `switch-tf reproduce run {experiment.name}`.",
    ]
    return "\n\n".join(parts)


def _several(name: str, values: Iterable[str]) -> str:
    found = sorted(set(values))
    return f"{name}{'s' if len(found) > 1 else ''} {', '.join(v[:40] for v in found)}"


def _dates(results: Sequence[Result]) -> str:
    found = sorted(result.environment["date"][:10] for result in results)
    if not found:
        return "no run is done"
    return found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}"
