"""The forms in which datasets are published, read to records that know their places.

A form is a function from the `SplitFiles` of a split to pairs of place and record. A place begins
with the path of the file. A `BadRecord` stands in place of a record that cannot be read.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from switch_tf.errors import UserError


class BadRecord(Exception):
    """A record that is not in the form of its dataset; says why, in a line."""


class LeftOut(BadRecord):
    """A record of the official files that TFDS's builder leaves out, too; says why, in a line."""


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """What a split is read from.

    Args:
      split: its name.
      path: its file.
      others: further files or folders, which other splits may share.
    """

    split: str
    path: str
    others: tuple[str, ...] = ()


Records = Iterator[tuple[str, Any]]


def lines(path: str, newline: str | None = None) -> Iterator[tuple[int, str | BadRecord]]:
    """Number and text of each line, without a byte order mark; a `BadRecord` where not UTF-8.

    Args:
      path: the file.
      newline: what ends a line, as for `open`.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        # Bytes that are not UTF-8 come as halves of surrogate pairs, which UTF-8 never holds.
        with open(path, encoding="utf-8", errors="surrogateescape", newline=newline) as file:
            for number, line in enumerate(file, 1):
                wrong = re.search("[\ud800-\udfff]", line)
                if wrong:
                    byte = len(line[: wrong.start()].encode()) + 1
                    how = "convert the file, for example with iconv"
                    yield number, BadRecord(f"not UTF-8, at byte {byte} of the line; {how}")
                else:
                    yield number, line.removeprefix("\ufeff") if number == 1 else line
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_json(text: str) -> Any:
    """The value of a text of JSON.

    Raises:
      BadRecord: it is none, or has half of a surrogate pair, which UTF-8 cannot hold.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {error}") from error
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise BadRecord("half of a surrogate pair, such as \\ud800") from error
    return value


def json_lines(files: SplitFiles) -> Records:
    """A value a line; blank lines are skipped."""
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
    """The records in a file that is one value.

    Args:
      files: of the split.
      records: function from the value and the path to places and records.
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
    """The items of a list in a value of JSON, named by their numbers.

    Args:
      value: the list, or the object that has it; a `BadRecord` in their place is passed on.
      key: of the list; None where the value is the list.
      place: of the value.
      what: such as "article", of which the first is at "PLACE, article 1".
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
    """A row a line, its columns parted by tabs, quotes without a meaning; blank lines are skipped.

    Args:
      files: of the split.
      columns: their names; None where the first line has them.

    Returns:
      Rows as dicts, with None for a column that a row lacks, and its number, from 0, as `idx`.
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
        yield (
            place,
            dict.fromkeys(columns) | dict(zip(columns, cells, strict=False)) | {"idx": index},
        )
        index += 1
