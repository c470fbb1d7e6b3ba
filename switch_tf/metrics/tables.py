"""Plain-text and Markdown tables."""

from collections.abc import Iterable, Iterator, Sequence


def table(rows: Iterable[Sequence]) -> Iterator[str]:
    """Yields the lines of a table with aligned columns.

    Args:
      rows: equally long sequences of cells of any type; the first is the heading.
    """
    rows = _texts(rows)
    widths = _widths(rows)
    for row in rows:
        yield "  ".join(_padded(row, widths)).rstrip()


def markdown(rows: Iterable[Sequence], is_aligned: bool = False) -> Iterator[str]:
    """Yields the lines of a table in Markdown.

    Args:
      rows: see `table`.
      is_aligned: whether to pad cells to align the columns. Set it for tables that are read as
        text; leave it off where cells are long.
    """
    heading, *others = _texts(rows)
    rule = ["---"] * len(heading)
    if is_aligned:
        rule = ["-" * width for width in _widths([heading, rule, *others])]
    for row in (heading, rule, *others):
        cells = _padded(row, map(len, rule)) if is_aligned else row
        yield f"| {' | '.join(cells)} |"


def size(count: float) -> str:
    """A number of bytes as people read it.

    >>> [size(count) for count in (512, 2_540_000, 1_571_000_000_000)]
    ['0.512 kB', '2.54 MB', '1,571 GB']
    """
    scale, unit = (1e3, "kB") if count < 1e6 else (1e6, "MB") if count < 1e9 else (1e9, "GB")
    value = count / scale
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _texts(rows: Iterable[Sequence]) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in rows]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _padded(row: Sequence[str], widths: Iterable[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
