"""Documents in text files and JSON lines, with errors that name file and line."""

import functools
import gzip
import io
import itertools
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from switch_tf import storage
from switch_tf.data import dropped
from switch_tf.errors import UserError
from switch_tf.stages import counting
from switch_tf.tasks.sources import json_values

JSON_SUFFIXES = (".json", ".jsonl")
TEXT_SUFFIXES = (".txt",)
# Text files without blank lines are cut into documents of about this length, at the ends of lines
# or, in longer lines, at blanks: many documents shuffle better than one.
MAX_CHARACTERS = 65_536
# Line ends beside those of files (\n, \r\n and \r) that SentencePiece's normalisation does not make
# blanks of, as it does of \f and U+2028: it would join the words on both sides.
_DROPPED_ENDS = re.compile("[\v\x1c-\x1f\x85]")
# Bytes that are read at a time.
_BLOCK = 1 << 16
# Up to this many bytes, files are read completely before a run, so that errors stop it at its
# start. Beyond it, only the first lines of each file are read.
CHECKED_BYTES = 1_000_000_000
CHECKED_DOCUMENTS = 1_000

# (Path, policy) -> number of documents that `check` last counted in all of the file.
_checked: dict[tuple[str, str], int] = {}


def _stop(error: UserError) -> None:
    raise error


def documents(path: str, bad: Callable[[UserError], None] = _stop) -> Iterator[str]:
    """Yields the documents of a file, in order.

    In `.txt` files, blank lines separate documents. In `.json` and `.jsonl` files, each line is an
    object whose `text` is a document, as in the published C4; blank lines are skipped. Either may
    be gzipped: `.gz`. Lines end in \\n, \\r\\n or \\r. In `.txt` files, other characters that end
    lines become \\n if vocabularies would drop them.

    Args:
      path: the file, local or in a cloud that TensorFlow can read, such as gs://.
      bad: called with the error of a bad line; if it returns, the line is dropped.

    Raises:
      UserError: the suffix is unknown, the file cannot be read, or a line is bad; the message names
        the file and the line.
    """
    suffix = os.path.splitext(path.removesuffix(".gz"))[1]
    if suffix in JSON_SUFFIXES:
        yield from _json_texts(path, bad)
    elif suffix in TEXT_SUFFIXES:
        yield from _blocks(path, bad)
    else:
        known = ", ".join(TEXT_SUFFIXES + JSON_SUFFIXES)
        raise UserError(
            f"{path}: not a text file; give files that end in {known}, optionally followed by .gz"
        )


def _json_texts(path: str, bad: Callable[[UserError], None]) -> Iterator[str]:
    for number, line in raw_lines(path):
        try:
            text = text_of_line(path, number, decode(path, number, line))
        except UserError as error:
            bad(error)
            continue
        if text:
            yield text


def text_of_line(path: str, number: int, line: str) -> str:
    """The text in a line of JSON; empty if the line or the text is blank.

    Raises:
      UserError: the line is not JSON, has no string `text`, or one that UTF-8 cannot encode; the
        message gives `path` and `number`.
    """
    if not line.strip():
        return ""
    try:
        record = json_values.parsed(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not JSON: {error}; fix or remove the line") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(
            f"{path}:{number}: no field 'text' with a string; each line must be an object that "
            'has it, such as {"text": "..."}'
        )
    if re.search("[\ud800-\udfff]", text):
        raise UserError(
            f"{path}:{number}: half of a surrogate pair in 'text', such as \\ud800; fix or remove "
            "the line"
        )
    return text if text.strip() else ""


def decode(path: str, number: int, line: bytes) -> str:
    """Decodes a line, without a byte order mark.

    Raises:
      UserError: the line is not UTF-8; the message gives `path` and `number`.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: not UTF-8, at byte {error.start + 1} of the line; convert the file, "
            "for example with iconv"
        ) from error
    # Some editors write a byte order mark.
    return text.removeprefix("\ufeff") if number == 1 else text


def _blocks(path: str, bad: Callable[[UserError], None]) -> Iterator[str]:
    block, length = [], 0
    for number, raw in raw_lines(path):
        try:
            line = _DROPPED_ENDS.sub("\n", decode(path, number, raw))
        except UserError as error:
            bad(error)
            continue
        for window in _windows(line):
            is_blank = not window.strip()
            if not is_blank:
                block.append(window)
                length += len(window)
            if block and (is_blank or length >= MAX_CHARACTERS or len(window) < len(line)):
                yield "".join(block).strip("\n").rstrip()
                block, length = [], 0
    if block:
        yield "".join(block).strip("\n").rstrip()


def _windows(line: str) -> Iterator[str]:
    """Cuts a long line behind blanks where there are any, else anywhere."""
    start = 0
    while len(line) - start > MAX_CHARACTERS:
        window = line[start : start + MAX_CHARACTERS]
        # Without the word at its end, which may go on.
        whole = re.fullmatch(r"(.*\s)\S*", window, re.DOTALL)
        window = whole[1] if whole and whole[1].strip() else window
        yield window
        start += len(window)
    yield line[start:]


class _Blocks(io.RawIOBase):
    """The bytes of a file. A local one is open only while they are read.

    A run may be in the middle of thousands of files at a time, more than a process may open.
    """

    def __init__(self, path: str):
        self._path, self._place = path, 0
        self._remote = storage.opened(path, "rb") if storage.is_remote(path) else None

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer) -> int:
        """See `io.RawIOBase.readinto`."""
        if self._remote is not None:
            block = self._remote.read(len(buffer))
        else:
            with open(self._path, "rb") as file:
                file.seek(self._place)
                block = file.read(len(buffer))
        buffer[: len(block)] = block
        self._place += len(block)
        return len(block)


def _by_carriage_returns(text: bytes) -> list[bytes]:
    """The lines of a text, all of which end in \\n, except the last if it has no end."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").splitlines(keepends=True)


def raw_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields the number and bytes of each line of a file, gzipped or not.

    Lines end in \\n, \\r\\n or \\r, all of which become \\n. Of a gzip file, all members are read,
    also behind empty ones, at which TensorFlow's reader ends.

    Raises:
      UserError: it cannot be read; the message names file and line.
    """
    number = 0
    try:
        # TensorFlow's own iteration over lines would drop carriage returns.
        plain = io.BufferedReader(_Blocks(path), _BLOCK)
        for ended in gzip.open(plain) if path.endswith(".gz") else plain:
            for line in _by_carriage_returns(ended) if b"\r" in ended else [ended]:
                number += 1
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}:{number + 1}: damaged gzip file ({error}); download it again"
        ) from error
    except storage.errors() as error:
        raise UserError(f"{path}: cannot be read: {storage.reason(error)}") from error


def check(paths: Sequence[str], policy: str = "stop") -> None:
    """Checks files for errors, with a progress bar; never reads the same file twice.

    Args:
      paths: the files to check.
      policy: "stop" raises at the first bad line; "skip" prints how many lines of each file are
        dropped.

    Raises:
      UserError: see `documents`; or none of the files contains a document.
    """
    total = sum(stamp(path)[0] for path in paths)
    found = 0
    with counting("checking files", "files", len(paths), at_once=False) as add:
        for path in paths:
            number = _count(path, _limit(total), policy, *stamp(path))
            if _limit(total) is None:
                _checked[path, policy] = number
            if not number:
                if policy == "stop":
                    raise UserError(f"{path}: no text in it; remove it, or set BAD_DATA='skip'")
                print(f"{path}: no text in it (BAD_DATA='skip')", file=sys.stderr)
            found += number
            add(1)
    if not found:
        raise UserError(f"{paths[0]}{' and others' * (len(paths) > 1)}: no text in it")


def check_all_read(path: str, number: int, policy: str) -> None:
    """Checks that a file has been read to the same end as when it was checked.

    Args:
      path: the file.
      number: how many documents were read up to its end.
      policy: as in `check`.

    Raises:
      UserError: the check counted another number.
    """
    counted = _checked.get((path, policy), number)
    if counted != number:
        raise UserError(
            f"{path}: {number:,} documents were read, but {counted:,} counted before: the file has "
            "changed meanwhile; rerun the command"
        )


def count(paths: Sequence[str], policy: str = "stop") -> int:
    """Number of documents; above CHECKED_BYTES, extrapolated from the first file.

    Raises:
      UserError: see `check`.
    """
    sizes = [stamp(path)[0] for path in paths]
    if _limit(sum(sizes)) is None:
        return sum(_count(path, None, policy, *stamp(path)) for path in paths)
    return int(_count(paths[0], None, policy, *stamp(paths[0])) * sum(sizes) / max(sizes[0], 1))


def _limit(total: int) -> int | None:
    return CHECKED_DOCUMENTS if total > CHECKED_BYTES else None


def stamp(path: str) -> tuple[int, int]:
    """The size and modification time of a file, which reveal when it changes."""
    with storage.told(f"{path}: cannot be read"):
        stat = tf.io.gfile.stat(path)
    return stat.length, stat.mtime_nsec


@functools.cache
def _count(path: str, limit: int | None, policy: str, size: int, modified: int) -> int:
    """Number of documents up to `limit`; `size` and `modified` reveal when a file changes."""
    bad: list[UserError] = []
    leave_out = _stop if policy == "stop" else bad.append
    found, number = 0, 0
    for text in itertools.islice(documents(path, leave_out), limit):
        found += 1
        number += dropped.in_text(text)
    if bad:
        print(f"{path}: {len(bad)} lines skipped (BAD_DATA='skip'), the first: {bad[0]}")
    if number:
        print(dropped.told(path, number), file=sys.stderr)
    return found
