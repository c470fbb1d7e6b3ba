import functools
import gzip
import re
import uuid
import zlib

import gin
import pytest
import seqio
import tensorflow as tf

from switch_tf.data import availability, raw_files
from switch_tf.errors import UserError
from tests.tasks.official_files import set_macros


def member(*lines):
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def records(*contents):
    """A TFRecord file."""
    path = f"ram://{uuid.uuid4().hex}"
    with tf.io.TFRecordWriter(path) as writer:
        for content in contents:
            writer.write(content)
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def gzip_lines(path):
    return tf.data.TextLineDataset(path, "GZIP")


@pytest.fixture
def checked(tmp_path):
    """Checks a file with these bytes, which a source of a reader reads."""

    def checked(content, reader=tf.data.TextLineDataset, name="a"):
        # Files that follow each other this fast may have the same time.
        raw_files._checked.clear()
        (tmp_path / name).write_bytes(content)
        availability.prepare(seqio.FileDataSource(reader, {"train": f"{tmp_path}/*"}))

    yield checked
    gin.clear_config()


@pytest.mark.parametrize(
    "content",
    [b"", b"one\r\ntwo\r\n", b"one\ntwo\r\r\n", b"one\r", member("one", "two"), records(b"a\rb")],
)
def test_a_file_that_is_read_as_it_is_passes(checked, content):
    reader = tf.data.TextLineDataset
    if content.startswith(b"\x1f\x8b"):
        reader = gzip_lines
    checked(content, tf.data.TFRecordDataset if b"a\rb" in content else reader)


@pytest.mark.parametrize("reader", [tf.data.TextLineDataset, "TextLineDataSource"])
def test_a_carriage_return_that_would_join_two_words_is_one_line(tmp_path, reader, capsys):
    (tmp_path / "a").write_bytes(b"one\r\ntwo\rthree\nfour\r\rfive\n")
    files = {"train": f"{tmp_path}/a"}
    if reader == "TextLineDataSource":
        source = seqio.TextLineDataSource(files)
    else:
        source = seqio.FileDataSource(reader, files)
    try:
        with pytest.raises(UserError) as told:
            raw_files.check(source)
        assert str(told.value) == (
            f"{tmp_path}/a:2: a carriage return inside, which TensorFlow's reader drops, so that "
            "two words become one: end lines in \\n or \\r\\n, such as by tr '\\r' '\\n' < FILE > "
            "NEW, or set BAD_DATA='skip'"
        )
        set_macros(BAD_DATA="skip")
        raw_files.check(source)
        assert f"{tmp_path}/a: 2 lines have a carriage return inside" in capsys.readouterr().out
    finally:
        gin.clear_config()


@pytest.mark.parametrize(
    "content, told",
    [
        (
            member("a", "b") + member() + member("c"),
            "2 of 3 records are read, or the last only in part, because TensorFlow's reader ends",
        ),
        (
            gzip.compress(b"a\nb", mtime=0) + member() + gzip.compress(b"c", mtime=0),
            "2 of 2 records are read, or",
        ),
        (member("a", "b")[:-9], "a gzip file that is cut off"),
        (member("a", "b")[:-4] + b"\1\0\0\0", r"damaged gzip file \(.*incorrect length check"),
        (member("a", "b") + b"tail", "damaged gzip file"),
        (member("a", "b") + b"\0" * 512, r"cannot be read: inflate\(\) failed .*zeros that fill"),
        (b"\0" * 512, "damaged gzip file"),
        (b"\0", "a gzip file that is cut off"),
    ],
)
def test_a_gzip_file_of_which_the_reader_would_lose_a_part_is_one_line(checked, content, told):
    with pytest.raises(UserError, match=rf"\A[^\n]*/a: {told}[^\n]*\Z"):
        checked(content, gzip_lines)


@pytest.mark.parametrize("content", [b"", member()])
def test_an_empty_member_at_the_end_of_a_gzip_file_loses_nothing(checked, content):
    checked(member("a", "b") + content, gzip_lines)


@pytest.mark.parametrize("size", [20, 25, 31, 37])
def test_records_that_are_cut_off_are_one_line_even_where_tensorflow_is_silent(checked, size):
    whole = records(b"one", b"two")
    assert len(whole) == 38
    with pytest.raises(UserError, match=r"/a: cut off at byte 19: write the file again$"):
        checked(whole[:size], tf.data.TFRecordDataset)


def test_a_file_too_short_for_a_record_is_one_line(checked):
    with pytest.raises(UserError, match="/a: cut off at byte 0: write the file again$"):
        checked(records(b"one")[:11], tf.data.TFRecordDataset)
    with pytest.raises(UserError, match="/a: no record in it: write the file again, or remove it$"):
        checked(b"ab", lambda path: tf.data.FixedLengthRecordDataset(path, 2, header_bytes=2))


def compressed(kind):
    """Compresses some contents, each to a part of a file."""
    one = zlib.compress if kind == "ZLIB" else functools.partial(gzip.compress, mtime=0)
    return lambda *contents: b"".join(map(one, contents))


def reader(of, kind, hidden):
    """A reader, or one that does not show of what it is made."""
    plain = functools.partial(of, compression_type=kind)
    return (lambda path: tf.data.Dataset.from_tensors(path).flat_map(plain)) if hidden else plain


TEXT, MORE = b"one\ntwo\nthree\n" * 9, b"four\n"
RECORDS = records(*[b"one", b"two", b"three"] * 9), records(b"four")
# One byte of its content is lost, and one of what says that it is whole.
CUTS = [-12, -1]


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
@pytest.mark.parametrize("of", [tf.data.TextLineDataset, tf.data.TFRecordDataset])
def test_a_compressed_file_is_read_as_a_whole_or_is_one_line(checked, of, kind, hidden):
    reads, pack = reader(of, kind, hidden), compressed(kind)
    first, second = (TEXT, MORE) if of is tf.data.TextLineDataset else RECORDS
    checked(pack(first), reads)
    checked(pack(b""), reads)
    for cut in CUTS:
        with pytest.raises(UserError, match=r"/a: a (gzip file|ZLIB stream) that is cut off; wri"):
            checked(pack(first)[:cut], reads)
    with pytest.raises(UserError, match="/a: damaged (gzip file|ZLIB stream)"):
        checked(pack(first)[:-4] + b"abcd", reads)
    with pytest.raises(UserError, match="/a: damaged (gzip file|ZLIB stream)"):
        checked(pack(first) + b"tail", reads)
    if kind == "GZIP":
        checked(pack(first, second), reads)
        parted, where = pack(first, b"", second), "at an empty member of a gzip file"
    else:
        parted, where = pack(first, second), "at the end of the first of several ZLIB streams"
    with pytest.raises(UserError, match=f"/a: 27 of 28 records are read, .* ends {where}"):
        checked(parted, reads)


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
@pytest.mark.parametrize("size", [3, 12, 20, 37])
def test_records_that_were_cut_off_before_they_were_compressed_are_one_line(checked, kind, size):
    content = compressed(kind)(records(b"one", b"two")[:size])
    with pytest.raises(UserError, match=f"/a: cut off at its uncompressed byte {size // 19 * 19}:"):
        checked(content, functools.partial(tf.data.TFRecordDataset, compression_type=kind))


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
def test_a_carriage_return_in_a_compressed_file_is_one_line(checked, kind):
    with pytest.raises(UserError, match="/a:2: a carriage return inside"):
        checked(
            compressed(kind)(b"one\ntwo\rthree\n"), reader(tf.data.TextLineDataset, kind, False)
        )


@pytest.mark.parametrize("content", [b"x^ is no ZLIB stream\n", b"x^\n", b"x", b"H\x89 nor this\n"])
@pytest.mark.parametrize("hidden", [False, True])
def test_text_that_begins_as_a_zlib_stream_is_text(checked, content, hidden):
    checked(content, reader(tf.data.TextLineDataset, "", hidden))


@pytest.mark.parametrize("kind", ["", "GZIP", "ZLIB"])
def test_control_characters_that_vocabularies_drop_are_told(checked, capsys, kind):
    lost = "\x01\x08\v\x0e\x1c\x1f\x7f\x8f\x9f"
    text = f"{lost}\tkept \x85\x80\x90\xa0\f\u2028\n".encode()
    checked(compressed(kind)(text) if kind else text, reader(tf.data.TextLineDataset, kind, False))
    assert capsys.readouterr().err.endswith(
        "/a: 9 control characters, such as U+0001 or U+007F, which vocabularies drop without a "
        "blank in their place\n"
    )


def test_what_is_too_large_to_be_checked_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(raw_files, "CHECKED_BYTES", 5)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"one\n")
    (tmp_path / "b").write_bytes(b"t\ro\n")
    raw_files.check(seqio.TextLineDataSource({"train": f"{tmp_path}/*"}))
    assert re.search(r"of 8 bytes of .*/b .* the first 4 were checked", capsys.readouterr().out)


def test_files_that_are_not_there_are_left_to_the_run(tmp_path):
    raw_files.check(seqio.TextLineDataSource({"train": f"{tmp_path}/no.txt", "test": "no/*"}))
