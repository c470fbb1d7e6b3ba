import pytest
import seqio
import tensorflow as tf

from switch_tf.data import stamps
from tests.data.pairs import FEATURES, STEPS


@pytest.fixture
def found(tmp_path):
    """Returns the stamps of a split, anew."""
    for name in "ab":
        (tmp_path / f"{name}.tsv").write_text(f"{name}\tyes\n")

    # SeqIO keeps which files it found of a pattern.
    patterns = iter(("*", "?", "[a-z]", "*[a-z]"))

    def stamps_of(split="train"):
        files = {"train": f"{tmp_path}/{next(patterns)}.tsv", "test": f"{tmp_path}/a.tsv"}
        task = seqio.Task("stamps", seqio.TextLineDataSource(files), FEATURES, STEPS)
        return stamps.stamps([task], split)

    return stamps_of


def test_files_that_are_the_same_have_not_changed_whenever_they_were_written(found, tmp_path):
    before = found()
    assert list(before) == [f"{tmp_path}/a.tsv", f"{tmp_path}/b.tsv"]
    (tmp_path / "a.tsv").write_text("a\tyes\n")
    assert list(stamps.changes(before, found())) == []
    assert list(found("test")) == [f"{tmp_path}/a.tsv"]
    assert found("validation") == {}


def test_each_change_is_told(found, tmp_path):
    before = found()
    (tmp_path / "a.tsv").write_text("a\tno!\n")
    (tmp_path / "b.tsv").write_text("a\tyes, or not\n")
    assert list(stamps.changes(before, found())) == [
        f"{tmp_path}/a.tsv has other content of the same size",
        f"{tmp_path}/b.tsv has 14 bytes instead of 6",
    ]
    (tmp_path / "c.tsv").write_text("c\tyes\n")
    assert f"{tmp_path}/c.tsv is new" in stamps.changes(before, found())
    for name in "bc":
        (tmp_path / f"{name}.tsv").unlink()
    assert f"{tmp_path}/b.tsv is gone" in stamps.changes(before, found())


def test_files_in_another_place_are_compared_in_their_order(found, tmp_path):
    before = {path.replace(str(tmp_path), "/elsewhere"): one for path, one in found().items()}
    assert list(stamps.changes(before, found())) == []
    before["/elsewhere/b.tsv"] = [9, None]
    assert list(stamps.changes(before, found())) == [f"{tmp_path}/b.tsv has 6 bytes instead of 9"]


def test_of_large_files_the_size_counts(found, monkeypatch):
    monkeypatch.setattr(stamps, "_READ_BYTES", 11)
    assert [content for _, content in found().values()] == [None, None]
    monkeypatch.setattr(stamps, "_READ_BYTES", 12)
    assert list(stamps.changes({p: [6, None] for p in found()}, found())) == []


@pytest.mark.parametrize("number, size", [(2, 6), (3, None)])
def test_of_many_remote_files_the_names_count(monkeypatch, number, size):
    monkeypatch.setattr(stamps, "_REMOTE_FILES", 2)
    paths = [f"ram://stamps/{number}/{index}.tsv" for index in range(number)]
    for path in paths:
        with tf.io.gfile.GFile(path, "w") as file:
            file.write("a\tyes\n")
    source = seqio.TextLineDataSource({"train": paths})
    found = stamps.stamps([seqio.Task("stamps", source, FEATURES, STEPS)], "train")
    assert found == {path: [size, None] for path in paths}
    assert list(stamps.changes({path: [7, None] for path in paths}, found)) == [
        f"{path} has 6 bytes instead of 7" for path in paths if size
    ]
    assert f"{paths[0]} is new" in stamps.changes({paths[1]: [None, None]}, found)


def test_a_function_has_no_files():
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files: tf.data.Dataset.range(1), ["train"]
    )
    assert stamps.files_of(source, "train") == []
