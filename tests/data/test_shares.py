import collections
import copy
import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from switch_tf.checkpoints.position import Position
from switch_tf.data import features
from switch_tf.data.batch_shape import check_shares, host_rows
from switch_tf.data.shares import Share
from switch_tf.errors import UserError
from tests.helpers import task_data

BYTES = seqio.ByteVocabulary(extra_ids=100)
LENGTHS = {"inputs": 8, "targets": 8}
ROWS = 8
NAMES = "shares_lines", "shares_few", "shares_mixture", "shares_files"


def _pair(dataset):
    return dataset.filter(lambda line: tf.strings.substr(line, 0, 1) != "-").map(
        lambda line: {"inputs": line, "targets": line}
    )


def register(name, folder, files, first=_pair):
    """A task of files with these lines, of which those that begin with "-" are dropped.

    As in our tasks, and SeqIO's advice, tokens are made before the placeholder of a cache.
    """
    for number, lines in enumerate(files):
        (folder / f"{name}-{number}.txt").write_text("".join(f"{line}\n" for line in lines))
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({"train": f"{folder}/{name}-*.txt"}),
        preprocessors=[
            first,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={side: seqio.Feature(BYTES) for side in ("inputs", "targets")},
    )


@pytest.fixture(scope="module", autouse=True)
def tasks(tmp_path_factory):
    """Tasks of two uneven files and of one with a few lines, and their mixture."""
    folder = tmp_path_factory.mktemp("lines")
    register(NAMES[0], folder, [[f"a{n}" for n in range(50)], [f"b{n}" for n in range(7)]])
    # Every second line is dropped, so all those that one of two shares has in a pass.
    register(NAMES[1], folder, [["-1", "c2", "-3", "c4"]])
    register(NAMES[3], folder, [[f"{f}{n:02d}" for n in range(17 + f)] for f in range(5)])
    seqio.MixtureRegistry.add(NAMES[2], [(NAMES[0], 3.0), (NAMES[1], 1.0)])
    yield folder
    seqio.MixtureRegistry.remove(NAMES[2])
    for name in (*NAMES[:2], NAMES[3]):
        seqio.TaskRegistry.remove(name)


def iterator(shares=2, wanted=None, name=NAMES[0], **others):
    data = task_data(name, LENGTHS, ROWS, shares=shares, **others)
    return iter(features.train_batches(data, wanted))


def batches(number, *args, **kwargs):
    found = itertools.islice(iterator(*args, **kwargs), number)
    return [{name: np.asarray(value) for name, value in batch.items()} for batch in found]


def texts(batch):
    """The text of each row of the targets."""
    return [BYTES.decode(row[row > 1].tolist()) for row in batch["decoder_target_tokens"]]


@pytest.mark.parametrize(
    "hosts, shares, name, pack",
    [
        (2, 2, NAMES[2], True),
        # Two hosts make the first share.
        (4, 2, NAMES[0], False),
    ],
)
def test_any_number_of_hosts_comes_to_the_batches_of_one(hosts, shares, name, pack):
    expected = batches(12, shares, name=name, pack=pack)
    for host in range(hosts):
        own = host_rows(ROWS, host, hosts)
        data = task_data(name, LENGTHS, ROWS, shares=shares, pack=pack)
        made = features.train_batches(data, own)
        assert set(own) <= set(made.rows) and len(made.rows) == ROWS // min(hosts, shares)
        for found, whole in zip(made, expected, strict=False):
            for feature, rows in whole.items():
                np.testing.assert_array_equal(found[feature][made.rows], rows[made.rows])
                assert not np.delete(found[feature], made.rows, axis=0).any()


def test_a_host_makes_the_whole_of_each_share_that_holds_one_of_its_rows():
    made = features.train_batches(task_data(NAMES[0], LENGTHS, ROWS, shares=4), [3])
    assert made.rows == [2, 3]
    assert features.describe_order(made).endswith("in 4 shares; this host makes 2 of 8 rows")


def test_each_pass_over_the_source_is_dealt_out_once_whatever_the_file(monkeypatch):
    """Before SeqIO's buffer, which holds some back."""
    monkeypatch.setattr(seqio.TaskRegistry.get(NAMES[0]), "_shuffle_buffer_size", 1)
    rows = [texts(batch) for batch in batches(10 * 57 // ROWS)]
    # Each share has 28 or 29 of the first 57 examples.
    first = [text for row in rows[:7] for text in row]
    assert len(set(first)) == len(first) == 56
    counts = collections.Counter(text for row in rows for text in row)
    assert len(counts) == 57 and set(counts.values()) <= {9, 10, 11}


def test_a_share_whose_records_are_all_dropped_in_one_pass_has_those_of_the_next():
    found = collections.Counter(t for b in batches(30, name=NAMES[1]) for t in texts(b))
    assert set(found) == {"c2", "c4"}
    assert min(found.values()) > 80


@pytest.mark.parametrize("at", [3, 40])
def test_a_restored_share_goes_on_bit_for_bit_over_many_passes(at, tmp_path):
    """In each of which the files have another order, and buffers hold examples of several."""
    whole, restored = (iterator(wanted=[0], name=NAMES[3]) for _ in range(2))
    for _ in range(at):
        next(whole)
    Position(whole).write(str(tmp_path))
    Position(restored).read(str(tmp_path))
    for _ in range(250):
        assert texts(next(restored)) == texts(next(whole))


def test_records_left_out_are_so_before_the_dealing_whenever_that_was_installed(monkeypatch):
    expected = [texts(batch) for batch in batches(3)]
    task = seqio.TaskRegistry.get(NAMES[0])
    outer = copy.copy(task.source)
    inner = task.source.get_dataset

    def get_dataset(*args, **kwargs):
        return inner(*args, **kwargs).filter(lambda line: line != "b3")

    outer.get_dataset = get_dataset
    monkeypatch.setattr(task, "_source", outer)
    found = [texts(batch) for batch in batches(3)]
    # The 56 records that are left are dealt out, not the 57 of which one is left out.
    assert found != expected and "b3" not in {text for batch in found for text in batch}
    monkeypatch.setattr(task, "_shuffle_buffer_size", 1)
    first = [text for batch in batches(7) for text in texts(batch)]
    assert len(set(first)) == 56


@pytest.mark.parametrize(
    "step, does",
    [
        (lambda dataset: dataset.skip(10), "skip"),
        (lambda dataset: dataset.map(lambda line: line).take(10), "take"),
        (lambda dataset: dataset.cache(), "cache"),
    ],
)
def test_a_step_that_means_something_else_for_a_share_is_refused(step, does, tasks):
    name = f"shares_{does}"
    register(name, tasks, [[f"a{n}" for n in range(30)]], lambda dataset: _pair(step(dataset)))
    try:
        assert batches(1, 1, name=name)
        told = f"^'{name}', split 'train': a preprocessor has a {does}.., which would be of each"
        with pytest.raises(UserError, match=told):
            iterator(name=name)
    finally:
        seqio.TaskRegistry.remove(name)


def test_another_seed_gives_another_order():
    one, other, again = (
        [texts(batch) for batch in batches(4, wanted=[0], seed=seed)] for seed in (1, 2, 1)
    )
    assert one == again != other


def test_shares_have_noise_of_their_own():
    seeds = {Share(i, 8, seed).own_seed for seed in range(50) for i in range(8)}
    assert len(seeds) == 400 and min(seeds) >= 0 and max(seeds) < 2**31


def test_other_reads_of_a_task_are_of_all_its_examples():
    batches(1, wanted=[0])
    task = seqio.TaskRegistry.get(NAMES[0])
    lines = task.get_dataset(LENGTHS, "train", shuffle=False, num_epochs=1)
    assert len(list(lines)) == 57
    assert not hasattr(features.train_batches(task_data(NAMES[0], LENGTHS, ROWS)), "rows")


def test_a_share_that_fails_leaves_the_others_torn_apart():
    found = iterator(2)
    next(found)
    assert not found.is_torn
    found.parts[1] = iter([])
    told = f"'{NAMES[0]}', split 'train': share 2 of 2 .TaskData.shares. has no example"
    with pytest.raises(UserError, match=told):
        next(found)
    assert found.is_torn


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"shares": 3}, "BATCH_SIZE=8 is not divisible by TaskData.shares=3: give each share"),
        ({"shares": 2, "use_cached": True}, "TaskData.shares=2 is of tasks that are not cached"),
    ],
)
def test_shares_that_cannot_be_made_are_refused(settings, told):
    with pytest.raises(UserError, match=f"^{told}"):
        features.train_batches(task_data(NAMES[0], LENGTHS, ROWS, **settings))


def test_caches_and_whole_reads_need_no_shares():
    check_shares(7, 1, use_cached=True)
    check_shares(8, 8, use_cached=False)
