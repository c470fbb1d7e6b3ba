import importlib
import os
import runpy
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from switch_tf.errors import UserError
from switch_tf.pages import __main__ as command
from switch_tf.pages.registry import PAGES, Page

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.mark.parametrize("name", [page.name for page in PAGES.values() if page.is_cheap])
def test_a_page_that_is_made_in_seconds_is_up_to_date(name):
    """If not: scripts/docs.sh NAME."""
    assert PAGES[name].stale(DOCS) == []


@pytest.fixture
def toys(monkeypatch):
    """Three pages that write their name: one cheap, one that takes long, one of a run."""

    def write(name):
        return lambda folder, *run: (folder / f"{name}.md").write_text("".join(map(str, run)))

    pages = Page("toy", is_cheap=True), Page("slow", devices=8), Page("of_run", needs_run=True)
    for page in pages:
        module = types.SimpleNamespace(write=write(page.name))
        monkeypatch.setitem(sys.modules, f"switch_tf.pages.{page.name}", module)
    monkeypatch.setattr(command, "PAGES", {page.name: page for page in pages})


def test_every_page_is_made_but_one_of_a_run_that_is_not_given(toys, tmp_path, capsys):
    assert command.main([f"--folder={tmp_path}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"toy.md", "slow.md"}
    assert capsys.readouterr().out.splitlines() == [
        "of_run: left out: it is made of a run, which --model_dir names",
        f"toy: written to {tmp_path}",
        f"slow: written to {tmp_path}",
    ]


def test_a_page_of_a_run_is_given_the_run(toys, tmp_path):
    assert command.main(["of_run", f"--folder={tmp_path}", "--model_dir=runs/a"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["of_run.md"]
    assert (tmp_path / "of_run.md").read_text() == "runs/a"
    with pytest.raises(UserError, match="^of_run is made of a run: give its MODEL_DIR by --mod"):
        command.main(["of_run"])


@pytest.mark.parametrize("flag", ["--folder", "--model_dir"])
def test_a_remote_path_is_not_taken_for_a_local_one(flag):
    with pytest.raises(UserError, match=f"^{flag}='gs://bucket/a': give a local path; this one is"):
        command.main(["models", f"{flag}=gs://bucket/a"])


def test_a_check_names_the_files_that_differ_and_writes_nothing(toys, tmp_path, capsys):
    assert command.main(["--check", f"--folder={tmp_path}"]) == 1
    mend = "toy: out of date: toy.md; python -m switch_tf.pages toy\n"
    assert capsys.readouterr().out == mend
    assert list(tmp_path.iterdir()) == []
    command.main(["toy", "slow", f"--folder={tmp_path}"])
    assert command.main(["--check", f"--folder={tmp_path}"]) == 0
    (tmp_path / "slow.md").write_text("by hand")
    assert command.main(["--check", "toy", "slow", f"--folder={tmp_path}"]) == 1
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "toy: up to date",
        "toy: up to date",
        "slow: out of date: slow.md; python -m switch_tf.pages slow",
    ]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_is_a_module_that_writes(page):
    assert callable(importlib.import_module(f"switch_tf.pages.{page.name}").write)


def test_the_command_imports_no_tensorflow_before_it_starts_it():
    code = "import sys, switch_tf.pages.__main__; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_unknown_page_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="^no page 'shardign'; nearest: sharding; there are model"):
        command.main(["shardign"])


def test_an_interrupted_command_ends_as_those_of_switch_tf_do(monkeypatch, capsys):
    module = types.SimpleNamespace(write=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setitem(sys.modules, "switch_tf.pages.toy", module)
    monkeypatch.setitem(PAGES, "toy", Page("toy"))
    monkeypatch.setattr(sys, "argv", ["pages", "toy"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(command.__file__, run_name="__main__")
    assert stop.value.code == 143
    told = capsys.readouterr().err
    assert told.startswith("python -m switch_tf.pages: interrupted by SIGTERM: ")
    assert told.count("\n") == 1
