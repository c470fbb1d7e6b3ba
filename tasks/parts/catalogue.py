"""The paper's results for each task and mixture, for the table of tasks."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task or mixture in the paper.

    Args:
      name: the name of the task or mixture.
      paper_table: the table with its result; None if the paper has no separate result for it.
      metric: the metric of the result; None if nothing is evaluated.
    """

    name: str
    paper_table: str | None
    metric: str | None


_entries: dict[str, Entry] = {}


def add(name: str, paper_table: str | None, metric: str | None) -> None:
    """Adds a task or mixture to the catalogue; see `Entry` for the arguments."""
    _entries[name] = Entry(name, paper_table, metric)


def entries() -> list[Entry]:
    """The entries of all imported modules, sorted by name."""
    return [_entries[name] for name in sorted(_entries)]
