import functools
import gc
import itertools
import random
import threading

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from switch_tf.data import permutation, windows
from switch_tf.data.ordered import OrderedBatches, use_cache_dir
from switch_tf.errors import UserError
from tests.data import cached_tasks
from tests.data.cached_tasks import COUNTS, LENGTHS
from tests.helpers import assert_same_batches, joined, on_ram, task_data
from tests.tasks.official_files import set_macros

KINDS = [("cached_spans", False), ("cached_mixture", False), ("cached_mixture", True)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    for name in COUNTS:
        cached_tasks.write(folder, name)
    cached_tasks.forget()
    seqio.add_global_cache_dirs([str(folder)])
    yield folder
    cached_tasks.forget()


@functools.cache
def ordered(name, batch_size=8, pack=False, seed=1, **hosts):
    data = task_data(name, LENGTHS, batch_size, pack=pack, seed=seed)
    return OrderedBatches(data, **hosts)


def take(batches, count):
    return list(itertools.islice(batches, count))


def texts(batches):
    """The target texts of packed or unpacked batches, in their order."""
    found = []
    for batch in batches:
        for number, row in enumerate(batch["decoder_target_tokens"]):
            packed = batch.get("decoder_segment_ids")
            segments = (row != 0) if packed is None else packed[number]
            for segment in range(1, int(segments.max()) + 1):
                tokens = row[segments == segment]
                found.append(cached_tasks.BYTES.decode(tokens.tolist()))
    return found


@pytest.mark.parametrize("pack", [False, True])
def test_an_epoch_has_every_example_once_and_the_next_another_order(pack):
    rows = texts(take(ordered("cached_pairs", pack=pack), 2 * COUNTS["cached_pairs"] // 8))
    epochs = [rows[i * COUNTS["cached_pairs"] :][: COUNTS["cached_pairs"]] for i in (0, 1)]
    sources = cached_tasks.documents("train", name="cached_pairs").as_numpy_iterator()
    cut = sorted(example["targets"].decode()[: LENGTHS["targets"] - 1] for example in sources)
    assert sorted(epochs[0]) == cut == sorted(epochs[1])
    assert epochs[0] != epochs[1] and epochs[0] != cut


@pytest.mark.parametrize("name, pack", KINDS)
def test_hosts_put_together_are_the_global_batch(name, pack):
    whole = take(ordered(name, pack=pack), 30)
    for num_hosts in (2, 4):
        parts = [
            take(ordered(name, pack=pack, host=host, num_hosts=num_hosts), 30)
            for host in range(num_hosts)
        ]
        assert_same_batches(joined(parts), whole)


@pytest.mark.parametrize("name, pack", KINDS)
def test_a_run_goes_on_with_another_number_of_hosts(name, pack):
    """From 1 to 2 to 4 to 1; any host's state is that of all."""
    whole, found, state = take(ordered(name, pack=pack), 24), [], None
    for num_hosts, steps in ((1, 5), (2, 7), (4, 9), (1, 3)):
        iterators = [
            iter(ordered(name, pack=pack, host=host, num_hosts=num_hosts))
            for host in range(num_hosts)
        ]
        for iterator in iterators if state else ():
            iterator.deserialize(state)
        found += joined([take(iterator, steps) for iterator in iterators])
        states = {iterator.serialize() for iterator in iterators}
        (state,) = states
    assert_same_batches(found, whole)


@pytest.mark.parametrize("name, pack", KINDS)
def test_resumes_at_any_step_from_a_few_numbers(name, pack, tmp_path):
    whole = take(ordered(name, pack=pack), 60)
    for step in random.Random(0).sample(range(1, 50), 4):
        iterator = iter(ordered(name, pack=pack))
        take(iterator, step)
        path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / f"position{step}"))
        assert len(iterator.serialize()) < 1000
        resumed = iter(ordered(name, pack=pack))
        tf.train.Checkpoint(iterator=resumed).read(path).assert_consumed()
        assert_same_batches(take(resumed, 10), whole[step : step + 10])


def test_a_resume_reads_one_window_of_each_task(monkeypatch):
    iterator = iter(ordered("cached_mixture"))
    take(iterator, 400)
    resumed = iter(ordered("cached_mixture"))
    resumed.deserialize(iterator.serialize())
    read = []
    examples = windows.Windows.examples

    def counted(self, window):
        read.append((self.name, window))
        return examples(self, window)

    monkeypatch.setattr(windows.Windows, "examples", counted)
    take(resumed, 1)
    # About 2,400 of the 3,200 examples were pairs: in the second epoch, behind its first window.
    assert [window for name, window in read if name == "cached_pairs"] == [3]
    # Batches are made ahead, and a window of the few examples is soon through.
    assert min(window for name, window in read if name == "cached_few") > 20


def test_a_mixture_keeps_its_rates():
    schedule = permutation.Schedule({"pairs": 3.0, "few": 1.0}, 0)
    cycles = [
        [schedule.at(cycle * permutation.CYCLE + i) for i in range(permutation.CYCLE)]
        for cycle in (0, 1)
    ]
    assert [sum(cycle) for cycle in cycles] == [permutation.CYCLE // 4] * 2
    assert cycles[0] != cycles[1]
    # Also within a few batches: three standard deviations of a draw.
    rows = texts(take(ordered("cached_mixture", batch_size=64), 16))
    few = sum(text.startswith("f") for text in rows)
    assert abs(few - 256) < 3 * (1024 * 0.25 * 0.75) ** 0.5


def test_rare_tasks_have_their_share_too():
    shares = permutation.Schedule({"a": 1.0, "b": 1e-9, "c": 2.0}, 0).shares
    assert shares == {"a": 21845, "b": 1, "c": 43690}
    assert sum(shares.values()) == permutation.CYCLE


@pytest.mark.parametrize("pack", [False, True])
def test_rows_are_those_of_seqio_converter(pack):
    """The same examples in the same order, through SeqIO's own packing and shifting."""
    batches = ordered("cached_mixture", pack=pack)
    stream = batches._stream(batches.start())
    examples = []
    for _ in range(200):
        examples.append(stream.peek())
        stream.advance()
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(examples),
        output_signature={k: tf.TensorSpec([None], tf.int32) for k in LENGTHS},
    )
    converted = seqio.EncDecFeatureConverter(pack=pack)(dataset, LENGTHS)
    theirs = list(converted.batch(8, drop_remainder=True).as_numpy_iterator())[:6]
    assert_same_batches(take(ordered("cached_mixture", pack=pack), len(theirs)), theirs)


def test_examples_are_those_of_seqio_reading():
    """All of an epoch, in any order, as SeqIO reads the cache."""
    task = seqio.TaskRegistry.get("cached_pairs")
    theirs = task.get_dataset(LENGTHS, "train", use_cached=True, shuffle=False, num_epochs=1)
    theirs = sorted(example["targets"].tolist() for example in theirs.as_numpy_iterator())
    ours = windows.Windows(task, "train", LENGTHS, seed=3)
    found = [e["targets"].tolist() for w in range(ours.per_epoch) for e in ours.examples(w)]
    assert sorted(found) == theirs


def test_span_corruption_loses_no_token_and_noises_each_window_anew(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 100)
    spans = windows.Windows(seqio.TaskRegistry.get("cached_spans"), "train", LENGTHS, seed=0)
    sentinels = range(BYTES_SIZE - 100, BYTES_SIZE)
    masks, letters = [], 0
    for window in range(spans.per_epoch):
        examples = spans.examples(window)
        whole = [e["inputs"] for e in examples if len(e["inputs"]) == LENGTHS["inputs"]]
        masks.append({tuple(np.flatnonzero(np.isin(row, sentinels))) for row in whole})
        tokens = np.concatenate([np.concatenate(list(e.values())) for e in examples])
        letters += np.count_nonzero(~np.isin(tokens, [1, *sentinels]))
    documents = cached_tasks.documents("train", name="cached_spans").as_numpy_iterator()
    assert letters == sum(len(example["targets"]) for example in documents)
    assert all(len(kind) > 3 for kind in masks)
    assert masks[0] != masks[1] != masks[2]


BYTES_SIZE = cached_tasks.BYTES.vocab_size


def test_another_process_would_come_to_the_same_batches():
    ordered.cache_clear()
    first = take(ordered("cached_mixture", pack=True), 3)
    ordered.cache_clear()
    assert_same_batches(take(ordered("cached_mixture", pack=True), 3), first)


def test_another_seed_is_another_order():
    assert texts(take(ordered("cached_pairs"), 5)) != texts(
        take(ordered("cached_pairs", seed=2), 5)
    )


def test_a_state_of_other_data_is_refused():
    state = iter(ordered("cached_pairs", batch_size=4)).serialize()
    with pytest.raises(UserError, match="batch size 4 instead of 8"):
        iter(ordered("cached_pairs")).deserialize(state)


def test_a_task_without_a_cache_is_told_with_both_ways_out():
    with pytest.raises(UserError, match=r"cached_not.*cache_tasks.sh.*USE_CACHED_TASKS=False"):
        ordered("cached_not")


def test_batch_must_divide_by_the_hosts():
    with pytest.raises(UserError, match="BATCH_SIZE=8 is not divisible by 3 hosts"):
        ordered("cached_pairs", num_hosts=3)


def test_a_cache_on_a_remote_file_system_or_below_a_tilde_gives_the_same_batches(
    cache, monkeypatch
):
    data = task_data("cached_few", LENGTHS, 8, seed=1)
    expected = take(OrderedBatches(data), 5)
    monkeypatch.setenv("HOME", str(cache.parent))
    with on_ram(cache) as place:
        for folder in (place, f"~/{cache.name}"):
            cached_tasks.forget()
            set_macros(CACHE_DIR=folder)
            use_cache_dir()
            assert_same_batches(take(OrderedBatches(data), 5), expected)
            (used,) = seqio.get_global_cache_dirs()
            assert used == (place if folder == place else str(cache))
    set_macros(CACHE_DIR="ram://nowhere/cache")
    with pytest.raises(UserError, match="^CACHE_DIR='ram://nowhere/cache': no such folder; give"):
        use_cache_dir()
    gin.clear_config()


def test_a_file_that_is_cut_off_is_named(cache, tmp_path):
    ordered.cache_clear()
    cached_tasks.write(tmp_path, "cached_few")
    path = next((tmp_path / "cached_few").glob("train.tfrecord-00001*"))
    path.write_bytes(path.read_bytes()[:-7])
    task = seqio.TaskRegistry.get("cached_few")
    task._cache_dir = str(tmp_path / "cached_few")
    with pytest.raises(UserError, match=rf"{path.name} is cut off at byte \d+"):
        ordered("cached_few")
    task._cache_dir = None


def test_the_index_of_a_cache_is_kept_and_made_anew_when_files_change(cache):
    path = cache / "cached_pairs" / "train.tfrecord.offsets.npz"
    take(ordered("cached_pairs"), 1)
    kept = np.load(path)
    assert kept["counts"].sum() == COUNTS["cached_pairs"]
    path.write_bytes(b"")
    ordered.cache_clear()
    assert take(ordered("cached_pairs"), 1)
    assert path.stat().st_size


def test_a_damaged_record_is_named_and_the_next_call_does_not_hang(tmp_path):
    ordered.cache_clear()
    cached_tasks.write(tmp_path, "cached_few", num_shards=1)
    (path,) = (tmp_path / "cached_few").glob("train.tfrecord-*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    task = seqio.TaskRegistry.get("cached_few")
    task._cache_dir = str(tmp_path / "cached_few")
    iterator = iter(ordered("cached_few"))
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{path.name} is damaged at byte \d+"):
            next(iterator)
    task._cache_dir = None


def test_a_cache_made_anew_is_other_data(tmp_path):
    state = iter(ordered("cached_few")).serialize()
    ordered.cache_clear()
    cached_tasks.write(tmp_path, "cached_few", num_shards=2)
    task = seqio.TaskRegistry.get("cached_few")
    task._cache_dir = str(tmp_path / "cached_few")
    path = tmp_path / "cached_few" / "train.tfrecord-00000-of-00002"
    path.rename(path.with_name("other"))
    path.with_name("train.tfrecord-00001-of-00002").rename(path)
    path.with_name("other").rename(path.with_name("train.tfrecord-00001-of-00002"))
    with pytest.raises(UserError, match="caches"):
        iter(ordered("cached_few")).deserialize(state)
    task._cache_dir = None
    ordered.cache_clear()


def test_threads_end_with_their_iterators():
    before = threading.active_count()
    iterator = iter(ordered("cached_few"))
    next(iterator)
    assert threading.active_count() > before
    del iterator
    gc.collect()
    assert threading.active_count() == before


def test_what_a_mixture_lacks_in_the_cache_is_told_before_its_rates(monkeypatch):
    tasks = ["cached_few", "cached_not"]
    seqio.MixtureRegistry.add("cached_partly", tasks, default_rate=1.0)
    monkeypatch.setattr(seqio.Mixture, "get_rate", lambda *_: pytest.fail("asked for a rate"))
    with pytest.raises(UserError, match="task 'cached_not' is not cached"):
        OrderedBatches(task_data("cached_partly", LENGTHS, 4))
