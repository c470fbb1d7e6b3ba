"""Readers for the formats in which datasets are published.

A format is a function from the `SplitFiles` of a split to pairs of place and record. A place begins
with the path of the file. A `BadRecord` takes the place of a record that cannot be read.
"""

import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from switch_tf import storage
from switch_tf.errors import UserError
from switch_tf.tasks.sources import json_values


class BadRecord(Exception):
    """A record that violates its dataset's format; the message says why in one line."""


class OmittedRecord(BadRecord):
    """A record that TFDS's builder also leaves out; the message says why in one line."""


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The files of a split.

    Args:
      split: the split's name.
      path: the split's file.
      others: further files or folders, which splits may share.
    """

    split: str
    path: str
    others: tuple[str, ...] = ()


Records = Iterator[tuple[str, Any]]


def lines(path: str, newline: str | None = None) -> Iterator[tuple[int, str | BadRecord]]:
    """Yields each line's number and text, or `BadRecord` if not UTF-8, without byte order mark.

    Args:
      path: the file, local or remote.
      newline: the end of a line, as in `open`.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with storage.opened(path, "rb") as file:
            # Only a local file can be wrapped, and so need not fit in memory.
            raw = io.BytesIO(file.read()) if storage.is_remote(path) else file
            # Invalid bytes become surrogates, which valid UTF-8 never contains.
            text = io.TextIOWrapper(raw, "utf-8", "surrogateescape", newline)
            for number, line in enumerate(text, 1):
                wrong = re.search("[\ud800-\udfff]", line)
                if wrong:
                    byte = len(line[: wrong.start()].encode()) + 1
                    how = "convert the file, for example with iconv"
                    yield number, BadRecord(f"not UTF-8, at byte {byte} of the line; {how}")
                else:
                    yield number, line.removeprefix("\ufeff") if number == 1 else line
    except storage.errors() as error:
        raise UserError(f"{path}: cannot be read: {storage.reason(error)}") from error


def parse_json(text: str) -> Any:
    """Parses a JSON text.

    Raises:
      BadRecord: it is not JSON, or contains a lone surrogate, which UTF-8 cannot encode.
    """
    try:
        value = json_values.parsed(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {error}") from error
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise BadRecord("half of a surrogate pair, such as \\ud800") from error
    return value


def json_lines(files: SplitFiles) -> Records:
    """Yields the JSON value of each line, skipping blank lines."""
    for number, line in lines(files.path):
        place = f"{files.path}:{number}"
        if isinstance(line, BadRecord):
            yield place, line
        elif line.strip():
            try:
                yield place, parse_json(line)
            except BadRecord as error:
                yield place, error


def json_document(files: SplitFiles, records: Callable[[Any, str], Records]) -> Records:
    """Yields the records in a file that is a single JSON value.

    Args:
      files: the files of the split.
      records: returns places and records, given the value and the path.
    """
    texts = []
    for number, line in lines(files.path):
        if isinstance(line, BadRecord):
            yield f"{files.path}:{number}", line
            return
        texts.append(line)
    try:
        value = parse_json("".join(texts))
    except BadRecord as error:
        yield files.path, error
        return
    yield from records(value, files.path)


def items(value: Any, key: str | None, place: str, what: str) -> Records:
    """Yields the items of a list in a JSON value, with places by number.

    Args:
      value: the list, or the object that contains it; a `BadRecord` is passed on.
      key: the key of the list; None if the value is the list.
      place: the place of the value.
      what: what an item is: the first "article" is at "PLACE, article 1".
    """
    if isinstance(value, BadRecord):
        yield place, value
        return
    found = value if key is None else value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        yield place, BadRecord("no list" if key is None else f"no list '{key}'")
        return
    separator = ", " if ": " in place else ": "
    for number, item in enumerate(found, 1):
        yield f"{place}{separator}{what} {number}", item


def tsv(files: SplitFiles, columns: Sequence[str] | None = None) -> Records:
    """Yields a row per line, with tab-separated columns and literal quotes; skips blank lines.

    Args:
      files: the files of the split.
      columns: the names of the columns; None if the first line has them.

    Returns:
      Rows as dicts, with None for missing columns, and the row's number, from 0, as `idx`.
    """
    index = 0
    for number, line in lines(files.path):
        place = f"{files.path}:{number}"
        if isinstance(line, BadRecord):
            yield place, line
            if columns is None:
                return
            index += 1
            continue
        cells = line.rstrip("\n").split("\t")
        if cells == [""]:
            continue
        if columns is None:
            columns = cells
            continue
        row = dict.fromkeys(columns) | dict(zip(columns, cells, strict=False)) | {"idx": index}
        # A tab inside a text would move what follows to the next column.
        if any(map(str.strip, cells[len(columns) :])):
            row = BadRecord(f"{len(cells)} cells, but only {len(columns)} columns")
        yield place, row
        index += 1
