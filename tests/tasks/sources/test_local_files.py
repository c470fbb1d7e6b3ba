import gzip
import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.errors import UserError
from switch_tf.tasks.sources import local_files

# What json.dumps and UTF-8 can hold.
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=6)
GZIPPED = gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(1000)), mtime=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture
def write(tmp_path):
    """Writes a file; returns its path."""

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


def documents(path):
    return list(local_files.documents(path))


@pytest.mark.parametrize(
    "content, expected",
    [
        ("one\n\ntwo\n", ["one", "two"]),
        ("one\nstill one\n\n\n \t\n  two\n\u00a0\nthree", ["one\nstill one", "  two", "three"]),
        ("\n\none", ["one"]),
        ("    if x:\n        y\n\n\n    z\n", ["    if x:\n        y", "    z"]),
        ("windows\r\nlines\r\n\r\ntwo\r\n", ["windows\nlines", "two"]),
        ("\ufeffa byte order mark\n\n\ufefftwo", ["a byte order mark", "\ufefftwo"]),
        ("é\u2028è\x0b\n\n\0", ["é\u2028è", "\0"]),
        ("old\rlines\r\rtwo\r", ["old\nlines", "two"]),
        ("a\x0bb\x1cc\x1dd\x1ee\x85f\x1fg", ["a\nb\nc\nd\ne\nf\ng"]),
        ("a\fb\u2028c\u2029d", ["a\fb\u2028c\u2029d"]),
        ("\n \n", []),
        ("", []),
    ],
)
def test_blank_lines_part_the_documents_of_a_text_file(write, content, expected):
    assert documents(write("a.txt", content.encode())) == expected
    assert documents(write("a.txt.gz", gzip.compress(content.encode()))) == expected


def test_a_text_without_blank_lines_is_cut_at_the_end_of_a_line(write, monkeypatch):
    monkeypatch.setattr(local_files, "MAX_CHARACTERS", 10)
    path = write("a.txt", b"12345\n789\nnext\n\nx")
    assert documents(path) == ["12345\n789", "next", "x"]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("a line of more than ten", ["a line of", "more than", "ten"]),
        ("no blanks in it", ["no blanks", "in it"]),
        ("noblanksinthisone", ["noblanksin", "thisone"]),
        ("           then a word", [" then a", "word"]),
        ("\u3000".join(["\u4e00" * 4] * 4), ["\u3000".join(["\u4e00" * 4] * 2)] * 2),
    ],
)
def test_a_long_line_is_cut_at_blanks_into_documents(write, monkeypatch, line, expected):
    monkeypatch.setattr(local_files, "MAX_CHARACTERS", 10)
    found = documents(write("a.txt", f"{line}\nx\n".encode()))
    assert found == [*expected, "x"]
    assert "".join("".join(found).split()) == "".join(f"{line}x".split())


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_each_line_of_json_holds_a_document(write, name):
    lines = [
        '\ufeff{"text": "one\\n\\nstill one", "url": "u", "timestamp": 1}',
        "",
        ' {"text": " \\u00e9 "}\r',
        '{"text": " \\n"}',
        '{"text": "two"}',
    ]
    content = "\n".join(lines).encode()
    assert documents(write(name, content)) == ["one\n\nstill one", " é ", "two"]
    assert documents(write(f"{name}.gz", gzip.compress(content))) == documents(write(name, content))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(texts=TEXTS, ascii_only=st.booleans())
def test_documents_of_json_are_the_texts_that_were_written(folder, texts, ascii_only):
    path = folder / "c4-train.00000-of-00001.json.gz"
    lines = [json.dumps({"text": text}, ensure_ascii=ascii_only) + "\n" for text in texts]
    path.write_bytes(gzip.compress("".join(lines).encode()))
    assert documents(str(path)) == [text for text in texts if text.strip()]


def test_control_characters_that_vocabularies_drop_are_counted(write, capsys):
    for path in (
        write("a.txt", b"a\x01b\x7fc\x0bd\n\nc"),
        write("a.jsonl", b'{"text": "a\\u000bb\\u0001"}\n'),
    ):
        local_files.check([path])
        assert capsys.readouterr().err.startswith(f"{path}: 2 control characters, such as U+0001")


def test_the_members_of_a_gzip_file_are_read_to_its_end(write):
    """TensorFlow's reader ends at an empty one."""
    members = [gzip.compress(text) for text in (b"a\n\n", b"", b"b\n", b"", b"\nc")]
    assert documents(write("a.txt.gz", b"".join(members) + bytes(100))) == ["a", "b", "c"]


NO_TEXT = (
    "1: no field 'text' with a string; each line must be an object that has it, such as "
    '{"text": "..."}'
)


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b\n',
            "2: not JSON: Invalid control character at: line 1 column 12 (char 11); fix or remove "
            "the line",
        ),
        (
            "a.json.gz",
            gzip.compress(b'\n{"text": "a"}\nb\n', mtime=0),
            "3: not JSON: Expecting value: line 1 column 1 (char 0); fix or remove the line",
        ),
        ("a.jsonl", b'{"content": "a"}', NO_TEXT),
        ("a.jsonl", b'{"text": null}', NO_TEXT),
        ("a.jsonl", b'["text"]', NO_TEXT),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b \\ud83d"}\n',
            "2: half of a surrogate pair in 'text', such as \\ud800; fix or remove the line",
        ),
        (
            "a.txt",
            b"a\nb \xff\n",
            "2: not UTF-8, at byte 3 of the line; convert the file, for example with iconv",
        ),
        (
            "a.jsonl",
            b'{"text": "\xe9"}',
            "1: not UTF-8, at byte 11 of the line; convert the file, for example with iconv",
        ),
        (
            "a.json.gz",
            GZIPPED[:40],
            "1: damaged gzip file (Compressed file ended before the end-of-stream marker was "
            "reached); download it again",
        ),
        (
            "a.txt.gz",
            b"text",
            "1: damaged gzip file (Not a gzipped file (b'te')); download it again",
        ),
        (
            "a.json.gz",
            GZIPPED + b"tail",
            "1001: damaged gzip file (Not a gzipped file (b'ta')); download it again",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_with_its_place(write, name, content, message):
    path = write(name, content)
    for read in (documents, lambda path: local_files.check([path])):
        with pytest.raises(UserError) as raised:
            read(path)
        assert str(raised.value) == f"{path}:{message}"


@pytest.mark.parametrize("place", [100, len(GZIPPED) // 2, len(GZIPPED) - 6])
def test_a_changed_byte_of_a_gzip_file_is_one_line(write, place):
    content = bytearray(GZIPPED)
    content[place] ^= 0xFF
    path = write("a.json.gz", bytes(content))
    with pytest.raises(UserError, match=rf"\A{re.escape(path)}:\d+: .*\Z"):
        documents(path)


def test_json_too_deep_for_the_parser_is_one_line(write):
    path = write("a.jsonl", b"[" * 100_000)
    with pytest.raises(UserError, match=rf"\A{re.escape(path)}:1: not JSON: .*recursion.*\Z"):
        documents(path)


@pytest.mark.parametrize("name", ["a.csv", "a", "a.gz", "a.txt.bz2"])
def test_a_file_of_another_kind_is_refused_with_the_kinds_there_are(write, name):
    path = write(name, b"text")
    with pytest.raises(UserError) as raised:
        documents(path)
    assert str(raised.value) == (
        f"{path}: not a text file; give files that end in .txt, .json, .jsonl, optionally followed "
        "by .gz"
    )


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError) as raised:
        documents(f"{tmp_path}/gone.txt")
    assert str(raised.value) == f"{tmp_path}/gone.txt: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", b""),
        ("a.txt", b"\n \n"),
        ("a.jsonl", b""),
        ("a.json.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_files_without_text_are_one_line(write, capsys, name, content):
    path, other = write(name, content), write("c.txt", b"text")
    for paths in ([path], [other, path]):
        with pytest.raises(UserError) as raised:
            local_files.check(paths)
        assert str(raised.value) == f"{path}: no text in it; remove it, or set BAD_DATA='skip'"
    local_files.check([path, other], "skip")
    assert capsys.readouterr().err == f"{path}: no text in it (BAD_DATA='skip')\n"
    with pytest.raises(UserError, match=f"{path} and others: no text in it"):
        local_files.check([path, write("b.txt", b"\n")], "skip")


def test_a_file_is_checked_once_until_it_changes(write, monkeypatch):
    read = []
    real = local_files.documents
    monkeypatch.setattr(
        local_files, "documents", lambda path, bad: read.append(path) or real(path, bad)
    )
    path = write("a.txt", b"text")
    local_files.check([path])
    local_files.check([path])
    assert read == [path]
    write("a.txt", b"more text")
    os.utime(path, (0, 0))
    local_files.check([path])
    assert read == [path, path]


def test_of_more_bytes_than_a_check_reads_the_first_documents_are_checked(write, monkeypatch):
    monkeypatch.setattr(local_files, "CHECKED_BYTES", 10)
    monkeypatch.setattr(local_files, "CHECKED_DOCUMENTS", 2)
    good, bad = b'{"text": "a"}\n', b"not JSON\n"
    local_files.check([write("a.jsonl", good + good + bad)])
    with pytest.raises(UserError, match=":2: not JSON"):
        local_files.check([write("b.jsonl", good + bad)])
