"""Every `switch-tf` command of the README and its pages runs, in their order, at a small size."""

import re
import shlex
from pathlib import Path

import gin
import pytest
import seqio

from switch_tf.commands import main as main_module
from switch_tf.tasks import pydocs
from switch_tf.tasks.docstrings import corpus, parse
from tests.tasks.conftest import make_documents

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
# A page reads the checkpoints that a page before it has made.
PAGES = ("README.md", "docs/training.md", "docs/evaluating.md", "docs/planning.md", "docs/tasks.md")
# A script that sets up and hands its arguments to a command.
SCRIPTS = {"scripts/cache_tasks.sh": ["cache"], "switch-tf": []}


def commands():
    """Commands of the pages, in their order, each once, and the lines that are quoted of each.

    Left out are those on a module of the reader's, which tests/tasks/test_own_task.py runs, and
    `bench`, of which tests/commands/test_bench.py runs each kind.
    """
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    found, command = {}, None
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language == "console" and "--gin." not in block:
            found[command] += list(filter(None, block.splitlines()))
        if language or "my_tasks" in block:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            script, *words = shlex.split(line, comments=True) or [""]
            command = (*SCRIPTS.get(script, ()), *words)
            if script in SCRIPTS and command[0] != "bench":
                found.setdefault(command, [])
    return found


def form(line):
    """A line without its figures; of a table's row, the first column."""
    without = re.sub(r"[\d.,+e]*\d[\d.,+e]*( [kMG]B)?", "#", line)
    return without.strip() if "  " not in without else re.split(" {2,}", without)[0]


QUOTED = commands()
COMMANDS = list(QUOTED)
# What keeps a command of each kind small; a later flag of the same name wins.
SMALL_MODEL = [
    "--gin.TransformerEncoderDecoder.num_layers=1",
    "--gin.TransformerEncoderDecoder.d_model=16",
    "--gin.pydocs.vocabulary_size=120",
]
SMALL = {
    "train": [*SMALL_MODEL, "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8"],
    # Model and batch size are those of the run.
    "eval": ["--gin.Evaluation.batches=1"],
    "plan": ["--gin.BATCH_SIZE=2048", "--gin.TASK_FEATURE_LENGTHS={'inputs':8,'targets':4}"],
    "cache": ["--min_shards=2"],
    "tasks": ["--gin.pydocs.vocabulary_size=120"],
}
DECODES = ["--gin.Evaluation.decode_examples=2", "--gin.Evaluation.batches=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with data of the user's own, and a small corpus of docstrings."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "data").mkdir()
    (folder / "held_out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(parse, "find_libraries", dict)
        patch.setattr(parse, "parse_libraries", lambda *_, **__: make_documents())
        yield folder
    gin.clear_config()
    seqio.set_global_cache_dirs([])
    corpus._read.cache_clear()
    pydocs._columns.cache_clear()


def own_text(folder):
    """Files of the kind that the README's commands name."""
    import gzip
    import json

    lines = [json.dumps({"text": d.text}) for d in make_documents(400)]
    for name, part in (("data", lines[:300]), ("held_out", lines[300:])):
        (folder / name / "a.json.gz").write_bytes(gzip.compress("\n".join(part).encode()))


def forget_vocabularies(folder):
    """Removes those of the docstrings from the cache; an evaluation has its run's copy."""
    there = list((folder / "cache").rglob("vocabulary_*.model"))
    for path in there:
        path.unlink()
    return there


def test_the_pages_show_each_kind_of_command_and_quote_four():
    assert {command[0] for command in COMMANDS} == {"train", "eval", "plan", "cache", "tasks"}
    assert sum(bool(lines) for lines in QUOTED.values()) == 4


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_a_command_of_the_pages_runs(folder, number, capsys):
    command = list(COMMANDS[number])
    own_text(folder)
    small = list(SMALL[command[0]])
    if "--gin_file=runs/finetune.gin" in command or command[0] == "eval":
        small += DECODES
    if command[0] == "train" and number:
        # Packed rows take another compilation of the evaluation; the first command has them.
        small.append("--gin.PACK=False")
    if "--gin_file=layouts/expert_data.gin" in command and command[0] != "plan":
        # Eight devices take three times as long to compile for.
        small.append("--gin.MESH_SHAPE='batch:2'")
    if any("train_vocabulary" in argument for argument in command):
        command = [re.sub("=8000$", "=120", argument) for argument in command]
    if command[0] == "eval":
        forget_vocabularies(folder)
    main_module.main([*command, *small])
    printed = capsys.readouterr().out
    assert printed
    assert set(map(form, QUOTED[COMMANDS[number]])) <= set(map(form, printed.splitlines()))
    assert command[0] != "eval" or not forget_vocabularies(folder)


@pytest.mark.parametrize("script", re.findall(r"^(scripts/\S+)", TEXT, re.MULTILINE))
def test_a_script_of_the_readme_is_there_and_can_be_run(script):
    assert (ROOT / script).stat().st_mode & 0o111


def test_the_table_of_what_is_where_has_every_folder_of_the_package():
    folders = {path.parent.resolve() for path in (ROOT / "switch_tf").glob("*/__init__.py")}
    (table,) = re.findall(r"^## What is where\n(.*?)\n\n[^|\n]", TEXT, re.MULTILINE | re.DOTALL)
    links = {(ROOT / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", table)}
    assert folders <= links


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))
def test_a_link_of_the_readme_leads_somewhere(target):
    assert (ROOT / target).exists()
