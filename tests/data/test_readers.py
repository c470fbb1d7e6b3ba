import gzip

import pytest
import seqio
import tensorflow as tf

from switch_tf.data import availability
from switch_tf.data.readers import source_of_files
from switch_tf.errors import UserError


@pytest.fixture
def path(tmp_path):
    """A gzip file with an empty member in the middle, at which TensorFlow's reader ends."""
    members = (b"a\tb\nc\td\n", b"", b"e\tf\n")
    path = tmp_path / "a[1].tsv.gz"
    path.write_bytes(b"".join(map(gzip.compress, members)))
    return str(path)


def lines(path):
    return tf.data.TextLineDataset([path], "GZIP")


@pytest.mark.parametrize(
    "dataset",
    [
        lines,
        lambda path: lines(path).map(lambda line: {"line": line}).skip(1),
        lambda path: lines(path).batch(2).unbatch().prefetch(1),
    ],
)
def test_the_files_of_a_dataset_are_seen_below_others(path, dataset):
    source = source_of_files(dataset(path), "train")
    assert source.list_shards("train") == [path]
    assert list(source._reader(path).as_numpy_iterator()) == [b"a\tb", b"c\td"]


def test_what_reads_no_lines_or_records_has_no_files(path):
    others = [
        tf.data.Dataset.range(3),
        tf.data.experimental.CsvDataset([path], [""]),
        tf.data.Dataset.from_tensors(path).flat_map(lines),
    ]
    assert [source_of_files(other, "train") for other in others] == [None] * 3


def test_a_function_whose_file_would_be_read_in_part_is_one_line(path):
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: lines(path), ["train"]
    )
    with pytest.raises(UserError, match=r"a\[1\].tsv.gz: 2 of 3 records are read, .* empty member"):
        availability.prepare(source)
