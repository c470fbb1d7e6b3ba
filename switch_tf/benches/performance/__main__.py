"""Measures all targets, and writes the tables and figures of docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import switch_tf
from switch_tf import process, storage
from switch_tf.benches.performance import targets
from switch_tf.benches.performance.measurements import all_measurements, measure
from switch_tf.errors import UserError
from switch_tf.metrics.tables import markdown

_DOCS = Path(switch_tf.__file__).parent.parent / "docs"
_TABLES = {
    "steps": targets.step_rows,
    "targets": lambda found: [
        ("target", "bound", "measured", ""),
        *(target.row() for target in targets.targets(found)),
    ],
    "parts": targets.part_rows,
    "scale": targets.scale_rows,
}


def main() -> None:
    """Runs what has no result yet, and writes docs/performance.json and the tables of the page."""
    parser = argparse.ArgumentParser(prog="scripts/performance.sh", allow_abbrev=False)
    parser.add_argument("--peer_python", default=".venv-bench/bin/python")
    parser.add_argument("--folder", type=Path, default=Path("runs/performance"))
    args = parser.parse_args()
    if not os.path.exists(args.peer_python):
        raise UserError(
            f"--peer_python: no file {args.peer_python}: python3.11 -m venv .venv-bench && "
            ".venv-bench/bin/pip install -r requirements-bench.txt"
        )
    found = measure(args.folder.absolute(), all_measurements(os.path.abspath(args.peer_python)))
    stored = {"machine": _machine(), "results": found}
    storage.write_json(_DOCS / "performance.json", stored)
    page = _DOCS / "performance.md"
    storage.write_atomically(page, with_tables(page.read_text(), stored))
    print(*markdown(_TABLES["targets"](found), is_aligned=True), sep="\n")


def _machine() -> dict:
    told = Path("/proc/cpuinfo").read_text()
    (name, *_) = re.findall(r"^model name\s*: (.+)$", told, re.MULTILINE) or [platform.machine()]
    flags = set(re.search(r"^flags\s*: (.+)$", told, re.MULTILINE)[1].split())
    units = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return {"processor": name, "cores": len(os.sched_getaffinity(0)), "units": units}


def with_tables(page: str, stored: Mapping) -> str:
    """The page with the tables of stored figures in place of its own.

    Args:
      page: text in which `<!-- NAME -->` and `<!-- end -->` are around each table.
      stored: the content of docs/performance.json.
    """
    for name, rows in _TABLES.items():
        made = "\n".join(markdown(rows(stored["results"])))
        before, start, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}{start}\n{made}\n\n{end}{after}"
    return page


def stored_figures() -> dict:
    """The content of docs/performance.json."""
    return json.loads((_DOCS / "performance.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        with process.interruptible("performance.sh"):
            main()
    except UserError as error:
        sys.exit(f"performance.sh: error: {error}")
