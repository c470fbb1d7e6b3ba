"""Whether a commit is faster than another: `scripts/compare_speed.sh BEFORE AFTER [flags]`.

Each is checked out to a folder of its own, and `switch-tf bench train` runs from both in turn, each
time in a new process: other load on the machine then slows both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import switch_tf
from switch_tf import process
from switch_tf.benches.command import failure_of
from switch_tf.benches.timing import Spread
from switch_tf.errors import UserError
from switch_tf.metrics.tables import table

_ROOT = Path(switch_tf.__file__).parent.parent
# A step that is timed in seconds, if no flags say which.
_FLAGS = (
    *("--gin_file=models/switch_mini.gin", "--gin_file=runs/plan.gin"),
    *("--gin.BATCH_SIZE=16", "--gin.TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 32}"),
)
_SHOWN = {
    "step_seconds": "step, s",
    "peak_bytes": "peak memory, bytes",
    "first_step_seconds": "first step, compiled, s",
}


def main(argv: Sequence[str]) -> None:
    """Prints the ratios of two commits.

    Raises:
      UserError: a commit is unknown, its step cannot be timed, or there are no rounds.
    """
    parser = argparse.ArgumentParser(prog="scripts/compare_speed.sh", allow_abbrev=False)
    parser.add_argument("before", help="a commit that has `switch-tf bench train`")
    parser.add_argument("after", help="the commit to compare with it")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each; 5 by default")
    args, flags = parser.parse_known_args(argv)
    if args.rounds < 1:
        raise UserError(f"--rounds={args.rounds}: give a whole number of at least 1")
    with _checked_out(args.before) as before, _checked_out(args.after) as after:
        commits = ((args.before, before), (args.after, after))
        found = compare(commits, flags or _FLAGS, args.rounds, figures_of)
    print(*lines(args.before, args.after, found), sep="\n")


def compare(
    commits: Sequence[tuple[str, Path]],
    flags: Sequence[str],
    rounds: int,
    measure: Callable[[Path, Sequence[str]], Mapping[str, float]],
) -> list[tuple[Mapping[str, float], ...]]:
    """Measures each commit in each round, and prints each step's time as it comes.

    Args:
      commits: each with the folder of its files; twice the same shows how steady the ratios are.
      flags: flags of `switch-tf bench train`.
      rounds: number of measurements of each.
      measure: see `figures_of`.

    Returns:
      The figures of each round, one per commit.
    """
    found = []
    for number in range(1, rounds + 1):
        of_round = []
        for commit, folder in commits:
            of_round.append(measure(folder, flags))
            milliseconds = 1e3 * of_round[-1]["step_seconds"]
            print(f"round {number} of {rounds}: {commit} {milliseconds:,.1f} ms", flush=True)
        found.append(tuple(of_round))
    return found


def lines(
    before: str, after: str, found: Sequence[tuple[Mapping[str, float], ...]]
) -> Iterator[str]:
    """The lines of a table of medians, and of the ratios of rounds.

    Args:
      before, after: the two commits.
      found: the result of `compare` for them.
    """
    rows = [("", before, after, "ratio", "lowest", "highest")]
    for name, shown in _SHOWN.items():
        pairs = [(old[name], new[name]) for old, new in found]
        medians = (Spread.of(values).median for values in zip(*pairs, strict=True))
        ratio = Spread.of(new / old for old, new in pairs)
        texts = (f"{value:.3f}" for value in (ratio.median, ratio.lowest, ratio.highest))
        rows.append((shown, *(f"{value:,.4g}" for value in medians), *texts))
    return table(rows)


def figures_of(folder: Path, flags: Sequence[str]) -> dict[str, float]:
    """The figures of `switch-tf bench train`, run from a folder of the project's files.

    Raises:
      UserError: it failed.
    """
    with tempfile.TemporaryDirectory() as work:
        output = Path(work) / "figures.json"
        written = f"--gin.bench_train.output_path='{output}'"
        failure = failure_of(["bench", "train", *flags, written], folder)
        if failure:
            raise UserError(f"switch-tf bench train failed in {folder}: {failure}")
        return json.loads(output.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _checked_out(commit: str) -> Iterator[Path]:
    """Context with the folder of a commit's files, which is removed at its end."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "files"
        added = _git("worktree", "add", "--detach", str(folder), commit)
        if added.returncode:
            raise UserError(f"commit {commit!r} cannot be checked out: {added.stderr.strip()}")
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True)


if __name__ == "__main__":
    try:
        with process.interruptible("compare_speed.sh"):
            main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"compare_speed.sh: error: {error}")
