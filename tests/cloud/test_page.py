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


def made(template, tmp_path):
    """What gcloud and xpk are called with by a template: they only note it."""
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
    return (tmp_path / "calls").read_text().split("\0")


def run_of(template, tmp_path):
    """The words of the run, after a shell."""
    calls = made(template, tmp_path)
    if (tmp_path / "startup.sh").exists():
        text = (tmp_path / "startup.sh").read_text()
        (run,) = re.findall(r"start (switch-tf .*)", text)
        assert subprocess.run(["bash", "-n", "startup.sh"], cwd=tmp_path).returncode == 0
    else:
        (run,) = [call for call in calls if call.startswith("--command=")]
        run = re.search(r"switch-tf .*", run)[0]
    return shlex.split(run)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_a_template_is_a_script_whose_run_passes_the_checks(template, tmp_path):
    words = run_of(template, tmp_path)
    assert words[:2] == ["switch-tf", "train"]
    files = [word.partition("=")[2] for word in words if word.startswith("--gin_file=")]
    assert files and all((ROOT / "gin" / file).exists() for file in files)
    assert "--gin.MODEL_DIR='gs://my-bucket/switch-base'" in words
    assert "--gin.VOCABULARY_PATH='gs://my-bucket/t5.model'" in words
    # The data of the page, and as many groups as there are devices that share the rows.
    for flag in ("--gin.USE_CACHED_TASKS=True", "--gin.CACHE_DIR='gs://my-bucket/cache'"):
        assert flag in words
    (file,) = [file for file in files if file.startswith("slices/")]
    assert f"--gin.GROUPS_MULTIPLE={rows_of(file)}" in words
    bindings = [word.removeprefix("--gin.") for word in words if word.startswith("--gin.")]
    checks.check_mesh(config.precheck(files, bindings))


def rows_of(file):
    """The devices that share the rows of a batch, as a slice's file lays them out."""
    (mesh,) = re.findall(r"^MESH_SHAPE = '(.*)'$", (ROOT / "gin" / file).read_text(), re.M)
    return dict(part.split(":") for part in mesh.split(","))["batch"]


@pytest.mark.parametrize("words", RUNS, ids=lambda words: words[0])
def test_a_run_of_the_page_has_as_many_groups_as_its_slice_needs(words):
    (multiple,) = [w.partition("=")[2] for w in words if w.startswith("--gin.GROUPS_MULTIPLE=")]
    files = [w.partition("=")[2] for w in words if w.startswith("--gin_file=slices/")]
    meshes = [w for w in words if w.startswith("--gin.MESH_SHAPE=")]
    assert multiple == rows_of(files[0]) if files else f"'batch:{multiple}'" in meshes[0]


WORKER_OF_A_GROUP = """
echo "worker.sh $1" >> told
case $1 in
  set_up) [[ $(grep -c set_up told) -gt {fails} ]] ;;
  state) echo "switch_tf state=ended status={status} stopped=no" ;;
esac
"""


@pytest.mark.parametrize(
    "fails, status, starts",
    [(0, 0, 1), (2, 2, 1), (2, 127, 1), (0, 75, 10), (99, 0, 0)],
)
def test_a_group_ends_its_cost_whenever_its_run_is_at_an_end(tmp_path, fails, status, starts):
    made(ROOT / "scripts" / "tpu" / "templates" / "mig.sh", tmp_path)
    (tmp_path / "calls").unlink()
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    (home / "worker.sh").write_text(WORKER_OF_A_GROUP.format(fails=fails, status=status))
    text = (tmp_path / "startup.sh").read_text().replace("/opt/switch_tf_home", str(home))
    done = subprocess.run(
        ["bash", "-c", text],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "the group is resized to 0" in done.stdout
    calls = (tmp_path / "calls").read_text().replace("\0", " ")
    assert "instance-groups managed resize switch-base " in calls and "--size=0" in calls
    assert "storage cp switch_tf_run/log.txt gs://my-bucket/logs/switch-base-" in calls
    assert (home / "told").read_text().count("worker.sh start") == starts


def test_the_cost_of_switch_c_is_that_of_the_plan():
    (words,) = [words for words in RUNS if "switch-c" in words]
    planned = (ROOT / "docs" / "planned.md").read_text()
    costs = [
        re.search(r"^\| expert_data \| batch:2048 \|.* \| ([\d,]+) \| ([\d,]+) \|$", part, re.M)
        for part in planned.split("\n### ")
        if part.startswith(("Switch-C on v3-2048", "Switch-C, eight times the batch on v3-2048"))
    ]
    papers, larger = costs
    assert f"would cost {larger[2]} dollars" in TEXT and f"cost {papers[2]} dollars" in TEXT
    days = float(larger[1].replace(",", "")) / 1024 / 24
    assert f"in {days:.0f} days on\n1,024 chips" in TEXT
    rows = int(re.search(r"BATCH_SIZE=(\d+)", " ".join(words))[1])
    text = (ROOT / "gin" / "runs" / "paper_pretrain.gin").read_text()
    assert rows == 8 * int(re.search(r"^BATCH_SIZE = (\d+)$", text, re.M)[1])
    planning = (ROOT / "docs" / "planning.md").read_text()
    (parameters,) = re.findall(r"^parameters: (1,571,[\d,]+),", planning, re.M)
    assert f"{4 * int(parameters.replace(',', '')) / 1e12:.1f} TB" in TEXT
