"""What the paper reports of each task and mixture, for the table of tasks."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task or mixture in the paper.

    Args:
      name: of the task or mixture.
      paper_table: where its figure is; None where the paper has none of it alone.
      metric: what the figure is; None where nothing is evaluated.
    """

    name: str
    paper_table: str | None
    metric: str | None


_entries: dict[str, Entry] = {}


def add(name: str, paper_table: str | None, metric: str | None) -> None:
    """Enters a task or mixture; `Entry` has the arguments."""
    _entries[name] = Entry(name, paper_table, metric)


def entries() -> list[Entry]:
    """What the imported modules entered, by name."""
    return [_entries[name] for name in sorted(_entries)]
