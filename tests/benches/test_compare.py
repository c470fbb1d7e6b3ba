import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from switch_tf.benches import compare as compare_module
from switch_tf.benches.compare import compare, figures_of, lines
from switch_tf.errors import UserError

SHOWN = ("step_seconds", "peak_bytes", "first_step_seconds")
ROOT = Path(compare_module.__file__).parents[2]


def test_commits_take_turns_and_rounds_are_compared_with_each_other(capsys):
    seconds = {"a": itertools.cycle([1.0, 2.0, 4.0]), "b": itertools.cycle([0.5, 2.0, 3.0])}
    turns = []

    def measure(folder, flags):
        turns.append((folder, *flags))
        figures = {"peak_bytes": 1e9, "first_step_seconds": 5.0}
        return figures | {"step_seconds": next(seconds[folder])}

    found = compare([("a", "a"), ("b", "b")], ["--flag"], 3, measure)
    assert turns == [("a", "--flag"), ("b", "--flag")] * 3
    assert "round 3 of 3: b 3,000.0 ms" in capsys.readouterr().out
    heading, step, *others = (line.split() for line in lines("a", "b", found))
    assert heading == ["a", "b", "ratio", "lowest", "highest"]
    assert step == ["step,", "s", "2", "2", "0.750", "0.500", "1.000"]
    assert all(row[-3:] == ["1.000"] * 3 for row in others)


def test_a_commit_can_be_compared_with_itself(capsys):
    found = compare([("a", "a"), ("a", "a")], [], 1, lambda *_: dict.fromkeys(SHOWN, 2.0))
    assert all(line.split()[-1] == "1.000" for line in list(lines("a", "a", found))[1:])


def test_a_step_that_cannot_be_timed_is_one_line():
    with pytest.raises(UserError, match=f"^switch-tf bench train failed in {ROOT}: .*gin_file is "):
        figures_of(ROOT, [])


def test_an_unknown_commit_is_one_line():
    command = [sys.executable, "-m", compare_module.__name__, "no_such_commit", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("compare_speed.sh: error: commit 'no_such_commit' cannot be ")


def test_no_rounds_are_one_line():
    with pytest.raises(UserError, match="^--rounds=0: give a whole number of at least 1$"):
        compare_module.main(["HEAD", "HEAD", "--rounds=0"])
