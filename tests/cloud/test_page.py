"""docs/tpu.md and the templates: what they show is what there is."""

import re
import shlex
import subprocess

import pytest

from switch_tf import config
from switch_tf.cloud import __main__ as cloud
from switch_tf.commands import checks
from tests.cloud.conftest import ROOT

TEXT = (ROOT / "docs" / "tpu.md").read_text()
SHOWN = re.findall(r"^```\nscripts/tpu/(.*?)^```\n\n```console\n(.*?)^```$", TEXT, re.M | re.S)
NAMES = [command.partition(".sh")[0] for command, _ in SHOWN]
TEMPLATES = sorted((ROOT / "scripts" / "tpu" / "templates").glob("*.sh"))


def words_of(command):
    """As a shell splits it, which drops a backslash at the end of a line."""
    script, *words = shlex.split(command.replace("\\\n", ""))
    return [script.removesuffix(".sh"), *words]


def test_the_page_shows_each_script():
    scripts = {path.stem for path in (ROOT / "scripts" / "tpu").glob("*.sh")} - {"python", "worker"}
    assert set(NAMES) == scripts
    assert len(NAMES) == len(re.findall(r"^scripts/tpu/", TEXT, re.M))


@pytest.mark.parametrize("command, told", SHOWN, ids=NAMES)
def test_a_command_prints_what_the_page_shows(command, told, capsys, monkeypatch):
    (line,) = re.findall(r"^export (.*)$", TEXT, re.M)
    for name, _, value in (word.partition("=") for word in line.split()):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    words = words_of(command)
    assert "--dry-run" in words
    assert cloud.main(words) == 0
    assert capsys.readouterr().out == told


RUNS = [words_of(command) for command, _ in SHOWN if " -- train " in command]


@pytest.mark.parametrize("words", RUNS, ids=lambda words: words[0])
def test_a_run_of_the_page_passes_the_checks_before_tensorflow(words):
    run = words[words.index("--") + 2 :]
    files = [word.partition("=")[2] for word in run if word.startswith("--gin_file=")]
    bindings = [word.removeprefix("--gin.") for word in run if word.startswith("--gin.")]
    assert len(files) + len(bindings) == len(run)
    checks.check_mesh(config.precheck(files, bindings))


def test_the_caching_of_the_page_passes_the_checks_before_tensorflow():
    (command,) = re.findall(r"^scripts/cache_tasks.sh (?:.*\\\n)*.*", TEXT, re.M)
    words = words_of(command)[1:]
    config.precheck([], [w.removeprefix("--gin.") for w in words if w.startswith("--gin.")])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(--[a-z_]+)`", TEXT))))
def test_a_flag_that_the_page_names_is_there(name, capsys):
    told = ""
    for script in (*sorted(set(NAMES)), "cache"):
        if script == "cache":
            told += (ROOT / "switch_tf" / "commands" / "cache.py").read_text()
            continue
        with pytest.raises(SystemExit):
            cloud.main([script, "--help"])
        told += capsys.readouterr().out
    assert name in told


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_a_template_is_a_script_whose_run_is_quoted_rightly(template, tmp_path):
    """With programs that only note how they were called, and a shell for what they are to run."""
    note = f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >> {tmp_path}/calls\n'
    for name in ("gcloud", "xpk", "git"):
        (tmp_path / name).write_text(note)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(template)],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    calls = (tmp_path / "calls").read_text().split("\0")
    if (tmp_path / "startup.sh").exists():
        text = (tmp_path / "startup.sh").read_text()
        (run,) = re.findall(r"start (switch-tf .*)", text)
        assert subprocess.run(["bash", "-n", "startup.sh"], cwd=tmp_path).returncode == 0
    else:
        (run,) = [call for call in calls if call.startswith("--command=")]
        run = re.search(r"(switch-tf .*) \|\| test", run)[1]
    words = shlex.split(run)
    assert words[:2] == ["switch-tf", "train"]
    files = [word.partition("=")[2] for word in words if word.startswith("--gin_file=")]
    assert files and all((ROOT / "gin" / file).exists() for file in files)
    assert "--gin.MODEL_DIR='gs://my-bucket/switch-base'" in words
    assert "--gin.VOCABULARY_PATH='gs://my-bucket/t5.model'" in words
