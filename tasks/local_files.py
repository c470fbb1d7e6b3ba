"""Documents of text files and JSON lines, with errors that name file and line."""

import functools
import gzip
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from switch_tf.errors import UserError

JSON_SUFFIXES = (".json", ".jsonl")
TEXT_SUFFIXES = (".txt",)
# A file without blank lines is cut, at the end of a line, to documents of about this length: T5
# takes one chunk of at most 65,536 tokens of each document.
MAX_CHARACTERS = 65_536
# Files are read to their end before a run, so that an error stops it at its start. Of what is more
# than this, in bytes, the first lines of each file are.
CHECKED_BYTES = 1_000_000_000
CHECKED_DOCUMENTS = 1_000


def documents(path: str) -> Iterator[str]:
    """The documents of a file, in order.

    `.txt`: blank lines part documents. `.json` and `.jsonl`: each line is an object whose `text` is
    one, as C4 is published; blank lines are skipped. Either may be gzipped: `.gz`.

    Raises:
      UserError: the suffix is another, the file cannot be read, or a line is not as it should be;
        names the file and the line.
    """
    suffix = os.path.splitext(path.removesuffix(".gz"))[1]
    if suffix in JSON_SUFFIXES:
        yield from _json_texts(path)
    elif suffix in TEXT_SUFFIXES:
        yield from _blocks(path)
    else:
        known = ", ".join(TEXT_SUFFIXES + JSON_SUFFIXES)
        raise UserError(f"{path}: not a file of text; give files named {known}, or those with .gz")


def _json_texts(path: str) -> Iterator[str]:
    for number, line in lines(path):
        text = text_of_line(path, number, line)
        if text:
            yield text


def text_of_line(path: str, number: int, line: str) -> str:
    """The text of a line of JSON; empty if the line or the text is blank.

    Raises:
      UserError: no JSON, or no string `text` in it, or one that UTF-8 cannot hold; names `path` and
        `number`.
    """
    if not line.strip():
        return ""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not JSON: {error}; mend or drop the line") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(
            f"{path}:{number}: no field 'text' with a string; each line must be an object that "
            'has it, such as {"text": "..."}'
        )
    if re.search("[\ud800-\udfff]", text):
        raise UserError(
            f"{path}:{number}: half of a surrogate pair in 'text', such as \\ud800; mend or drop "
            "the line"
        )
    return text if text.strip() else ""


def decode(path: str, number: int, line: bytes) -> str:
    """A line as text, without a byte order mark and carriage returns, as `tf.data` drops these.

    Raises:
      UserError: not UTF-8; names `path` and `number`.
    """
    try:
        text = line.decode().replace("\r", "")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: not UTF-8, at byte {error.start + 1} of the line; convert the file, "
            "for example with iconv"
        ) from error
    # A byte order mark, as some editors write it.
    return text.removeprefix("\ufeff") if number == 1 else text


def _blocks(path: str) -> Iterator[str]:
    block, length = [], 0
    for _, line in lines(path):
        if line.strip():
            block.append(line)
            length += len(line)
        if block and (not line.strip() or length >= MAX_CHARACTERS):
            yield "".join(block).strip()
            block, length = [], 0
    if block:
        yield "".join(block).strip()


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a file, gzipped or not.

    Raises:
      UserError: it cannot be read, or is not UTF-8; names file and line.
    """
    for number, line in raw_lines(path):
        yield number, decode(path, number, line)


def raw_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line of a file, gzipped or not.

    Raises:
      UserError: it cannot be read; names file and line.
    """
    number = 0
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}:{number + 1}: damaged gzip file ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def check(paths: Sequence[str]) -> None:
    """Reads files, with a progress bar, to find what is wrong in them; never the same file twice.

    Raises:
      UserError: as `documents`; or there is no document in any of the files.
    """
    total = sum(os.path.getsize(path) for path in paths)
    limit = CHECKED_DOCUMENTS if total > CHECKED_BYTES else None
    found = 0
    # A bar only where the check takes a moment.
    quiet = total < CHECKED_BYTES // 20
    label = "checking files"
    with tqdm(total=len(paths), desc=label, unit="file", file=sys.stderr, disable=quiet) as bar:
        for path in paths:
            stat = os.stat(path)
            found += _count(path, limit, stat.st_size, stat.st_mtime_ns)
            bar.update()
    if not found:
        raise UserError(f"{paths[0]}{' and others' * (len(paths) > 1)}: no text in it")


@functools.cache
def _count(path: str, limit: int | None, size: int, modified: int) -> int:
    """Number of documents, read up to `limit`; size and time tell when a file has changed."""
    return sum(1 for _ in itertools.islice(documents(path), limit))
