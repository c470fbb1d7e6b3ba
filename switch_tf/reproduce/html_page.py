"""One self-contained page with all results, whose plots can be hovered."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from switch_tf import storage
from switch_tf.reproduce.experiment import Experiment, Results
from switch_tf.reproduce.html_template import PAGE
from switch_tf.reproduce.metrics import Curve
from switch_tf.reproduce.report import Report

_CLASS = {True: "yes", False: "no", None: "open"}


def write(path: Path, found: Sequence[tuple[Experiment, Results, Report]]) -> None:
    """Writes the page.

    Args:
      path: the file.
      found: the experiments that have results, with them and their reports.
    """
    sections, plots = [], {}
    for experiment, results, report in found:
        plots[experiment.name] = _curves(experiment, results)
        sections.append(_section(experiment, report, bool(plots[experiment.name])))
    # `</` would end the script.
    data = json.dumps(plots).replace("</", "<\\/")
    links = " ".join(f'<a href="#{e.name}">{e.name}</a>' for e, _, _ in found)
    text = PAGE.replace("%LINKS%", links).replace("%SECTIONS%", "\n".join(sections))
    storage.write_atomically(path, text.replace("%DATA%", data))


def _curves(experiment: Experiment, results: Results) -> list[dict]:
    """Model, seed, and validation NLP by step and by second, of each run that has them."""
    found = []
    for arm, of_seeds in results.items():
        for result in of_seeds:
            curve = Curve.of(result, experiment.pretraining)
            if curve.steps:
                seconds = [round(step * curve.seconds_per_step, 1) for step in curve.steps]
                seed = result.settings.get("SEED", 0)
                found.append(
                    {"model": arm.model, "seed": seed, "steps": curve.steps, "seconds": seconds}
                    | {"nlp": curve.nlp}
                )
    return found


def _section(experiment: Experiment, report: Report, has_plot: bool) -> str:
    plot = f'<div class="plot" data-name="{experiment.name}"></div>' if has_plot else ""
    return (
        f'<section id="{experiment.name}"><h2>{html.escape(experiment.reproduces)}</h2>\n'
        f"{''.join(_claims(report.facts['claims']))}\n{plot}\n{_table(report.rows)}</section>"
    )


def _claims(claims: Sequence[Mapping]) -> Iterator[str]:
    for claim in claims:
        word = html.escape(claim["verdict"])
        yield (
            f'<p><span class="{_CLASS[claim["holds"]]}">{word}</span> '
            f"{html.escape(claim['claim'])}<br><small>{html.escape(claim['reason'])}</small></p>"
        )


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *others = rows
    lines = [_row("th", heading), *(_row("td", row) for row in others)]
    return f"<table>{''.join(lines)}</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
