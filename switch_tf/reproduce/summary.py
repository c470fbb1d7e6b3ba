"""One page on every claim: its verdict, our figure and the paper's, from the reports' data."""

import json
from collections.abc import Iterator
from pathlib import Path

from switch_tf import storage
from switch_tf.metrics.tables import markdown
from switch_tf.reproduce.registry import EXPERIMENTS
from switch_tf.reproduce.verdict import NOT_RUN

_HEADING = """\
# Results

Every claim of the paper that an experiment of `switch-tf reproduce` judges, at mini scale: models
of 0.4 to 10 million parameters, ten million positions of text, two cores. A verdict follows from a
rule that was written down before the runs: a claim is supported or contradicted if the whole 95%
bootstrap interval over seeds is on its side or on the other, and otherwise these runs cannot tell.
A verdict holds for this scale; the paper's models are a thousand times larger.
"""


def write(results_dir: Path) -> Path:
    """Writes the page beside the folder of the reports, and returns its path.

    Args:
      results_dir: the folder with the reports.
    """
    path = results_dir.with_suffix(".md")
    rows = [("result", "claim", "verdict", "ours", "the paper"), *_rows(results_dir)]
    counts = _counts(row[2].strip("*") for row in rows[1:])
    text = f"{_HEADING}\n{counts}\n\n" + "\n".join(markdown(rows)) + "\n"
    storage.write_atomically(path, text)
    return path


def _rows(results_dir: Path) -> Iterator[tuple[str, ...]]:
    for name, experiment in EXPERIMENTS.items():
        if not experiment.is_shared:
            continue
        data = results_dir / f"{name}.json"
        # Few have the data of all benchmarks.
        if experiment.brings_data and not data.exists():
            continue
        judged = {}
        if data.exists():
            judged = {
                found["claim"]: found
                for found in json.loads(data.read_text(encoding="utf-8"))["claims"]
            }
        for claim in experiment.claims:
            found = judged.get(claim.text)
            place = f"[{name}]({results_dir.name}/{name}.md)" if found else name
            verdict, reason = NOT_RUN, ""
            if found and found["verdict"] != NOT_RUN:
                verdict, reason = f"**{found['verdict']}**", found["reason"]
            yield place, claim.text, verdict, reason, claim.paper


def _counts(verdicts: Iterator[str]) -> str:
    found = {}
    for verdict in verdicts:
        found[verdict] = found.get(verdict, 0) + 1
    return "; ".join(f"{verdict}: {number}" for verdict, number in sorted(found.items())) + "."
