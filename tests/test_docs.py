"""The Python of each page in docs/ runs, a page's snippets one after the other."""

import re
from pathlib import Path

import pytest

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
