"""Tables of text."""

from collections.abc import Iterator


def table(rows) -> Iterator[str]:
    """Lines of a table, columns wide enough for their cells.

    Args:
      rows: sequences of cells of any type, one length; the first is the heading.
    """
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
