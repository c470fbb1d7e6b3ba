"""The page docs/task_table.md: the paper's tasks and where their data come from."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import seqio

from switch_tf.data import registry
from switch_tf.metrics.tables import markdown
from switch_tf.tasks.parts import catalogue
from switch_tf.tasks.sources.official import OfficialSource

_HEADING = ("task or mixture", "in the paper", "its metric", "TFDS", "under DATA_DIR", "tests")
_INTRO = """# The tasks of the paper

Each reads its dataset through TFDS or, if gin sets `DATA_DIR`, from the files in which it is
published. Where a table is named, the paper has figures of this task by itself; the others enter an
average. Splits are the published ones, or T5's parts of them in brackets: for training, for
choosing a checkpoint, for testing. Written by `python -m switch_tf.pages task_table`.

What tests check, with a few records written by hand in the published form, and without a network:
**A** the local files give the examples that TFDS's own builder makes from them, in T5's parts of
the splits if there are such, and these become the right text. **B** how many tokens of each task
are drawn from a mixture, and its average, if it has one. **C** shards give the documents of their
lines. The datasets themselves were not available: none has been read completely, and no figure of
the paper has been measured.
"""


def lines() -> Iterator[str]:
    """The lines of the page; the project's tasks must be registered."""
    yield from _INTRO.splitlines()
    yield ""
    yield from markdown([_HEADING, *map(_row, catalogue.entries())])


def write(folder: Path) -> None:
    """Writes task_table.md into `folder`."""
    registry.load_project_modules()
    (folder / "task_table.md").write_text("\n".join(lines()) + "\n", encoding="utf-8")


def _row(entry: catalogue.Entry) -> tuple[str, ...]:
    provider = registry.find(entry.name)
    what = f"`{entry.name}`", entry.paper_table or "", entry.metric or "none, trains only"
    return (*what, *_data(provider), _tests(provider))


def _tests(provider) -> str:
    if isinstance(provider, seqio.Mixture):
        names = {entry.name for entry in catalogue.entries()}
        listed = all(task.name in names for task in provider.tasks)
        return "B" if listed else f"B, {_tests(provider.tasks[0])}"
    return "A" if isinstance(provider.source, OfficialSource) else "C"


def _data(provider) -> tuple[str, str]:
    """The TFDS name of the data that a task or mixture reads, and its files."""
    if not isinstance(provider, seqio.Mixture):
        source = provider.source
        groups = [shorten(list(source.files.values())), *getattr(source, "others", ())]
        groups = [group if isinstance(group, tuple) else (group,) for group in groups]
        files = (" or ".join(f"`{name}`" for name in group) for group in groups)
        return source.tfds_name + _parts(source), ", ".join(files)
    names = {task.source.tfds_name for task in provider.tasks}
    if len(names) > 1:
        return f"those of its {len(provider.tasks)} tasks", f"as {_common(provider)}"
    name, files = _data(provider.tasks[0])
    return name, f"{files}, and so on"


def _parts(source) -> str:
    """TFDS's split names in brackets, if any split is a slice of one of TFDS's."""
    names = getattr(source, "tfds_splits", {}).values()
    is_parted = any("[" in name for name in names)
    return f" ({', '.join(f'`{name}`' for name in names)})" if is_parted else ""


def _common(mixture: seqio.Mixture) -> str:
    """The names of a mixture's tasks, with those prefixed by the mixture's name as one pattern."""
    prefix = f"{mixture.name}_"
    others = [task.name for task in mixture.tasks if not task.name.startswith(prefix)]
    return ", ".join(f"`{name}`" for name in (f"{prefix}*", *sorted(others)))


def shorten(paths: Sequence[str]) -> str:
    """Several paths as one shell pattern, such as BoolQ/{train,val}.jsonl."""
    paths = list(dict.fromkeys(paths))
    if len(paths) == 1:
        return paths[0]
    # Words are not split between the common prefix and the braces.
    start = re.sub("[a-zA-Z0-9]*$", "", os.path.commonprefix(paths))
    rests = [path.removeprefix(start) for path in paths]
    end = os.path.commonprefix([rest[::-1] for rest in rests])[::-1]
    end = re.sub("^[a-zA-Z0-9]*", "", end)
    return start + "{" + ",".join(rest.removesuffix(end) for rest in rests) + "}" + end
