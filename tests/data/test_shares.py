import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from switch_tf.data import features, shares
from switch_tf.data.shares import number_of_shares
from switch_tf.errors import UserError
from tests import toy_task
from tests.helpers import task_data

LENGTHS = {"inputs": 8, "targets": 8}
ROWS = 8


class Files:
    """A task whose source has so many files."""

    def __init__(self, number):
        self.source, self._number = self, number

    def list_shards(self, split):
        return [split] * self._number


@given(rows=st.integers(1, 300), files=st.lists(st.integers(1, 2000), min_size=1, max_size=4))
def test_shares_have_equally_many_rows_and_at_least_a_file_of_each_task(rows, files):
    number = number_of_shares(rows, list(map(Files, files)), "train")
    assert rows % number == 0 and number <= min(files)
    bigger = [n for n in range(number + 1, 9) if rows % n == 0 and n <= min(files)]
    assert number <= 8 and not bigger


def batches(number, wanted=None, name="toy_files", **others):
    data = task_data(name, LENGTHS, ROWS, **others)
    iterator = iter(features.train_batches(data, wanted))
    return [{k: np.asarray(v) for k, v in next(iterator).items()} for _ in range(number)]


def texts(rows):
    return [toy_task.VOCABULARY.decode(row[row > 1].tolist()) for row in rows]


@pytest.mark.parametrize("hosts, pack", [(2, True), (4, False)])
def test_any_number_of_hosts_comes_to_the_batches_of_one(hosts, pack):
    expected = batches(20, pack=pack)
    for host in range(hosts):
        own = range(host * ROWS // hosts, (host + 1) * ROWS // hosts)
        for found, whole in zip(batches(20, own, pack=pack), expected, strict=True):
            assert found.keys() == whole.keys()
            for name, rows in whole.items():
                np.testing.assert_array_equal(found[name][own], rows[own], err_msg=name)
                assert not np.delete(found[name], own, axis=0).any()


def test_a_host_makes_the_whole_of_each_share_that_holds_one_of_its_rows():
    made = features.train_batches(task_data("toy_files", LENGTHS, ROWS), [3])
    assert made.rows == [2, 3]
    assert "4 shares of its files; this host makes 2 of 8 rows" in features.describe_order(made)


def test_each_share_reads_its_own_files_alone():
    for batch in batches(30):
        first = [text[0] for text in texts(batch["decoder_target_tokens"])]
        assert first == [*"aabbccdd"]


def test_every_example_comes():
    """SeqIO shuffles epochs into each other."""
    found = {text for batch in batches(60) for text in texts(batch["decoder_target_tokens"])}
    task = seqio.TaskRegistry.get("toy_files")
    lines = [tf.io.gfile.GFile(path).read().split() for path in task.source.list_shards("train")]
    assert len(lines) == 4 and found == {text for of_file in lines for text in of_file}


def test_another_seed_gives_another_order():
    one, other, again = (
        [texts(batch["decoder_target_tokens"]) for batch in batches(4, seed=seed)]
        for seed in (1, 2, 1)
    )
    assert one == again != other


def test_shares_of_one_seed_are_shuffled_apart():
    per_share = np.transpose([texts(b["decoder_target_tokens"]) for b in batches(6)])[::2]
    assert len({tuple(text[1:] for text in column) for column in per_share}) > 1


def test_a_task_of_one_file_is_read_whole():
    assert not hasattr(features.train_batches(task_data("toy_copy", LENGTHS, ROWS)), "rows")
    mixed = features.train_batches(task_data("toy_files", LENGTHS, 3))
    assert mixed.number == 3


def test_a_share_without_examples_is_named(tmp_path, monkeypatch):
    """Such as an empty file, where there are no more files than shares."""
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("" if number == 2 else "abc\n" * 9)
    task = seqio.TaskRegistry.get("toy_files")
    source = seqio.TextLineDataSource({"train": str(tmp_path / "*.txt")})
    monkeypatch.setattr(task, "_source", source)
    told = "'toy_files', split 'train': every 4th of its files, from number 3 on"
    with pytest.raises(UserError, match=told):
        batches(1)
    # Hosts that do not make it go on.
    assert texts(batches(1, range(2))[0]["decoder_target_tokens"][:2]) == ["abc", "abc"]


def test_seeds_of_shares_fit_seqio():
    found = {shares.seed_of(seed, seqio.ShardInfo(n, 8)) for seed in range(50) for n in range(8)}
    assert len(found) == 400 and max(found) < 2**31 and min(found) >= 0
