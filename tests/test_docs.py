"""The Python of each page in docs/ runs, and its commands, settings and links are right."""

import re
import shlex
from pathlib import Path

import gin
import pytest

from switch_tf import config, configurables
from switch_tf.commands import checks
from switch_tf.commands import main as main_module
from tests.helpers import with_run

ROOT = Path(__file__).parent.parent
# Their code is a module of the user's, which tests/tasks/test_own_task.py and
# tests/metrics/test_writer.py run.
OTHER = {"tasks.md", "logging.md"}
PAGES = sorted(
    p for p in (ROOT / "docs").glob("*.md") if "```python" in p.read_text() and p.name not in OTHER
)


def snippets(page):
    """Code blocks, each on the lines that it has in the page."""
    text = page.read_text()
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text[: match.start(1)].count("\n") + match[1]


def test_there_are_pages_with_code():
    assert {page.name for page in PAGES} >= {"keras_dtensor.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for code in snippets(page):
        exec(compile(code, str(page), "exec"), names)


ALL = sorted((ROOT / "docs").glob("*.md"))
# Commands that take the gin files of a run; those with dots leave the rest to the reader.
COMMANDS = [
    pytest.param(command.replace("\\\n", " "), id=f"{page.name}-{number}")
    for page in ALL
    for number, command in enumerate(
        re.findall(r"^switch-tf (?:train|eval|plan|bench) (?:.*\\\n)*.*", page.read_text(), re.M)
    )
    if "..." not in command
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_passes_the_checks_before_tensorflow(command, tmp_path):
    _, name, *words = shlex.split(command)
    files = [word.partition("=")[2] for word in words if word.startswith("--gin_file=")]
    bindings = [word.removeprefix("--gin.") for word in words if word.startswith("--gin.")]
    # Modules called my_... are the reader's own.
    bindings = [binding for binding in bindings if "'my_" not in binding]
    if name != "train" and "runs/pretrain.gin" in files:
        # As the command itself does, which needs no MODEL_DIR.
        bindings.append("MODEL_DIR='none'")
    bindings = with_run(tmp_path, files, bindings, name == "train")
    checks.check_mesh(config.precheck(files, bindings))


# What compiles or runs a step, which tests/commands/test_plan.py does at a small size.
LOWERED = {"--collectives", "--dtypes", "--memory"}


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.values[0].startswith("switch-tf plan ")]
)
def test_a_plan_is_counted_at_its_own_size(command, capsys):
    main_module.main([word for word in shlex.split(command)[1:] if word not in LOWERED])
    gin.clear_config()
    assert capsys.readouterr().out.startswith("parameters: ")


PROSE = ["comparison", "evaluating", "faq", "glossary", "tasks", "training"]


@pytest.mark.parametrize("name", [f"{name}.md" for name in PROSE])
def test_a_setting_that_a_page_names_is_there(name):
    source = configurables.project_source()
    known = {c.name: c.parameters or {} for c in source.configurables}
    macros = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs/reference.md").read_text(), re.M))
    found = 0
    for code in re.findall(r"`([^`\n]+)`", (ROOT / "docs" / name).read_text()):
        setting = code.removeprefix("--gin.").partition("=")[0]
        owner, dot, parameter = setting.rpartition(".")
        if setting != "NAME" and re.fullmatch("[A-Z]+(_[A-Z]+)*", setting):
            assert setting in macros, code
        elif setting.startswith("@"):
            assert setting[1:] in known, code
        elif dot and owner in known and parameter != "gin":
            assert parameter in known[owner], code
        else:
            continue
        found += 1
    assert found


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.*)", page.read_text(), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [ROOT / "README.md", *ALL], ids=lambda page: page.name)
def test_a_link_of_a_page_leads_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
