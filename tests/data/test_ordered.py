import collections
import functools
import gc
import itertools
import json
import random
import threading

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.data import permutation, streams, windows
from switch_tf.data.batch_shape import host_rows
from switch_tf.data.ordered import OrderedBatches, use_cache_dir
from switch_tf.errors import UserError
from tests.data import cached_tasks
from tests.data.cached_tasks import COUNTS, LENGTHS
from tests.helpers import assert_same_batches, on_ram, task_data
from tests.tasks.official_files import set_macros

KINDS = [("cached_spans", False), ("cached_mixture", False), ("cached_mixture", True)]
PROPERTY = settings(max_examples=8, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    for name in COUNTS:
        cached_tasks.write(folder, name)
    cached_tasks.forget()
    seqio.add_global_cache_dirs([str(folder)])
    yield folder
    cached_tasks.forget()


@pytest.fixture(scope="module", autouse=True)
def traced():
    """Traces the steps of each task once, as many readers are made of it."""
    prepared, kept = windows._prepared, {}

    class Traced:
        def __init__(self, task, cache, lengths):
            self._of = task, cache, lengths

        def get_concrete_function(self):
            task, cache, lengths = self._of
            what = task.name, task.cache_dir, str(lengths)
            if what not in kept:
                kept[what] = prepared(task, cache, lengths).get_concrete_function()
            return kept[what]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_prepared", Traced)
        yield kept


@functools.cache
def ordered(name, batch_size=8, pack=False, seed=1, wanted=None):
    data = task_data(name, LENGTHS, batch_size, pack=pack, seed=seed)
    return OrderedBatches(data, wanted)


def of_hosts(number, name, batch_size=8, **settings):
    """What each of several hosts reads."""
    shares = [host_rows(batch_size, host, number) for host in range(number)]
    return [ordered(name, batch_size, wanted=wanted, **settings) for wanted in shares]


def together(parts):
    """Global batches of those of each host, whose other rows are zeros."""
    return [
        {feature: sum(part[feature] for part in step) for feature in step[0]}
        for step in zip(*parts, strict=True)
    ]


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


def test_an_epoch_has_every_example_once_and_the_next_another_order():
    rows = texts(take(ordered("cached_pairs"), 2 * COUNTS["cached_pairs"] // 8))
    epochs = [rows[i * COUNTS["cached_pairs"] :][: COUNTS["cached_pairs"]] for i in (0, 1)]
    assert sorted(epochs[0]) == targets("cached_pairs") == sorted(epochs[1])
    assert epochs[0] != epochs[1] and epochs[0] != targets("cached_pairs")


def targets(name):
    """The target texts of a task, sorted."""
    sources = cached_tasks.documents("train", name=name).as_numpy_iterator()
    return sorted(example["targets"].decode()[: LENGTHS["targets"] - 1] for example in sources)


@PROPERTY
@given(name=st.sampled_from(["cached_few", "cached_pairs"]), streams=st.integers(1, 16))
def test_streams_that_take_turns_see_every_example_once_an_epoch(name, streams):
    """Of a cache that is smaller than a window, and of one that is larger."""
    dealt, size = dealt_of(name, streams), COUNTS[name]
    assert len(dealt) >= 2 * size
    epochs = [dealt[i : i + size] for i in range(0, len(dealt) - size + 1, size)]
    assert all(sorted(epoch) == targets(name) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == len(epochs)


@functools.cache
def dealt_of(name, streams):
    """The target texts of the first windows of all streams, which take turns."""
    task = seqio.TaskRegistry.get(name)
    made = windows.Windows(task, "train", LENGTHS, 3, streams)
    number = -(-2 * COUNTS[name] // (windows.WINDOW * streams))
    own = [
        [e["targets"].tolist() for w in range(number) for e in made.examples(stream, w)]
        for stream in range(streams)
    ]
    return [cached_tasks.BYTES.decode(tokens) for turn in zip(*own, strict=True) for tokens in turn]


@pytest.mark.parametrize("pack", [False, True])
def test_examples_of_the_first_epochs_are_seen_about_equally_often(pack):
    """Streams do not wait for each other, so that some are ahead where rows are packed."""
    rows = texts(take(ordered("cached_pairs", pack=pack), 400 // (1 + pack)))
    seen = collections.Counter(rows)
    assert len(seen) == COUNTS["cached_pairs"]
    assert max(seen.values()) - min(seen.values()) <= 1 + pack


@PROPERTY
@given(
    kind=st.sampled_from(KINDS),
    batch_size=st.sampled_from([4, 6, 24, 32]),
    wanted=st.data(),
)
def test_wanted_rows_are_those_of_the_whole_batch_and_rows_that_are_not_made_are_zeros(
    kind, batch_size, wanted
):
    """So are those of hosts, however many and whatever their meshes."""
    name, pack = kind
    first, end = sorted(
        wanted.draw(st.lists(st.integers(0, batch_size), min_size=2, max_size=2, unique=True))
    )
    part = ordered(name, batch_size, pack, wanted=range(first, end))
    assert set(range(first, end)) <= set(part.rows)
    others = sorted(set(range(batch_size)) - set(part.rows))
    for own, whole in zip(take(part, 10), take(ordered(name, batch_size, pack), 10), strict=True):
        assert own.keys() == whole.keys()
        for feature in whole:
            assert own[feature].shape == whole[feature].shape
            np.testing.assert_array_equal(own[feature][part.rows], whole[feature][part.rows])
            assert not own[feature][others].any()


@pytest.mark.parametrize("name, pack", KINDS)
def test_hosts_put_together_are_the_global_batch(name, pack):
    whole = take(ordered(name, pack=pack), 30)
    for number in (2, 4):
        parts = of_hosts(number, name, pack=pack)
        assert [row for part in parts for row in part.rows] == list(range(8))
        assert_same_batches(together([take(part, 30) for part in parts]), whole)


@PROPERTY
@given(
    kind=st.sampled_from(KINDS),
    sittings=st.lists(
        st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 8)), min_size=2, max_size=3
    ),
)
def test_a_run_goes_on_with_any_other_number_of_hosts(kind, sittings):
    """Each sitting has so many hosts and steps, and goes on with what the chief saved."""
    name, pack = kind
    found, state = [], None
    for number, steps in sittings:
        iterators = [iter(part) for part in of_hosts(number, name, pack=pack)]
        for iterator in iterators if state else ():
            iterator.deserialize(state)
        found += together([take(iterator, steps) for iterator in iterators])
        iterators[0].join([iterator.serialize() for iterator in iterators])
        state = iterators[0].serialize()
    whole = iter(ordered(name, pack=pack))
    assert_same_batches(found, take(whole, len(found)))
    assert state == whole.serialize()


def test_windows_that_a_host_makes_fall_with_the_hosts(monkeypatch):
    """Counted, as their time is most of the work."""
    monkeypatch.setattr(windows, "WINDOW", 16)
    made = []
    examples = windows.Windows.examples

    def counted(self, stream, window):
        made.append((self.name, stream, window))
        return examples(self, stream, window)

    monkeypatch.setattr(windows.Windows, "examples", counted)

    def numbers(hosts):
        found = []
        for part in of_hosts(hosts, "cached_mixture", 16, pack=True):
            made.clear()
            take(part.after(part.start()), 50)
            assert len(set(made)) == len(made)
            found.append(len(made))
        return found

    (alone,) = numbers(1)
    assert alone > 60
    for hosts in (2, 4, 8, 16):
        found = numbers(hosts)
        assert sum(found) == alone
        assert max(found) <= 1.3 * alone / hosts


def test_hosts_at_different_steps_are_not_joined():
    first, other = (iter(part) for part in of_hosts(2, "cached_pairs"))
    take(first, 2)
    take(other, 3)
    with pytest.raises(ValueError, match="have made 3 and 2 batches"):
        first.join([other.serialize()])


def test_a_position_that_lacks_what_another_host_made_is_refused():
    first, _ = (iter(part) for part in of_hosts(2, "cached_pairs"))
    take(first, 2)
    with pytest.raises(
        UserError, match=r"lacks the position of streams \[4, 5, 6, 7\] of the data"
    ):
        iter(ordered("cached_pairs")).deserialize(first.serialize())


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


def test_a_resume_reads_one_window_of_each_task_and_stream(monkeypatch):
    iterator = iter(ordered("cached_mixture"))
    take(iterator, 300)
    batches = ordered("cached_mixture")
    read = []
    examples = windows.Windows.examples

    def counted(self, stream, window):
        read.append((self.name, stream, window))
        return examples(self, stream, window)

    monkeypatch.setattr(windows.Windows, "examples", counted)
    next(batches.after(ordered_state(iterator)))
    assert len(set(read)) == len(read) <= 16
    # Of 300 examples of a stream, about 225 were pairs.
    assert {window for name, _, window in read if name == "cached_pairs"} == {1}
    assert {window for name, _, window in read if name == "cached_few"} == {0}


def ordered_state(iterator):
    other = iter(ordered("cached_mixture"))
    other.deserialize(iterator.serialize())
    return other._state


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


@PROPERTY
@given(streams=st.integers(1, 16), few=st.integers(1, 100))
def test_streams_together_have_the_shares_of_a_cycle_long_before_each_is_through(streams, few):
    """Each is as long on its way as a cycle, divided by the streams, takes all of them."""
    schedule = permutation.Schedule({"many": 1000.0, "few": float(few)}, few)
    each = permutation.CYCLE // streams
    starts = [stream * permutation.CYCLE // streams for stream in range(streams)]
    found = sum(schedule.at(place, start) for start in starts for place in range(each))
    assert abs(found - schedule.shares["few"]) <= streams


def test_rare_tasks_have_their_share_too():
    shares = permutation.Schedule({"a": 1.0, "b": 1e-9, "c": 2.0}, 0).shares
    assert shares == {"a": 21845, "b": 1, "c": 43690}
    assert sum(shares.values()) == permutation.CYCLE


@pytest.mark.parametrize("pack", [False, True])
def test_rows_are_those_of_seqio_converter(pack):
    """The same examples in the same order, through SeqIO's own packing and shifting."""
    batches = ordered("cached_mixture", batch_size=1, pack=pack)
    stream = streams.Stream(
        *(0, batches._tasks, batches._schedule, LENGTHS, False),
        batches.start()["streams"][0],
    )
    examples = [stream.row()[0] for _ in range(200)]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(examples),
        output_signature={k: tf.TensorSpec([None], tf.int32) for k in LENGTHS},
    )
    converted = seqio.EncDecFeatureConverter(pack=pack)(dataset, LENGTHS)
    theirs = list(converted.batch(1).as_numpy_iterator())[:48]
    assert_same_batches(take(batches, len(theirs)), theirs)


def test_examples_are_those_of_seqio_reading():
    """All of an epoch, in any order, as SeqIO reads the cache."""
    task = seqio.TaskRegistry.get("cached_pairs")
    theirs = task.get_dataset(LENGTHS, "train", use_cached=True, shuffle=False, num_epochs=1)
    theirs = sorted(example["targets"].tolist() for example in theirs.as_numpy_iterator())
    ours = windows.Windows(task, "train", LENGTHS, seed=3, streams=1)
    found = [e["targets"].tolist() for w in range(11) for e in ours.examples(0, w)]
    assert sorted(found[: len(theirs)]) == theirs


def test_span_corruption_loses_no_token_and_noises_each_window_anew(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 100)
    spans = windows.Windows(seqio.TaskRegistry.get("cached_spans"), "train", LENGTHS, 0, streams=1)
    sentinels = range(BYTES_SIZE - 100, BYTES_SIZE)
    masks, letters = [], 0
    for window in range(3):
        examples = spans.examples(0, window)
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


def test_a_state_of_the_version_that_knew_no_streams_is_refused_as_that():
    state = json.loads(iter(ordered("cached_pairs")).serialize())
    of = state["of"] | {"windows": [1024, permutation.CYCLE]}
    old = json.dumps({"position": 8, "cursors": [[0, 8]], "of": of})
    with pytest.raises(UserError, match="of another version, which read caches in another order"):
        iter(ordered("cached_pairs")).deserialize(old)


def test_a_stream_finds_the_one_example_that_is_not_dropped():
    rows = take(ordered("cached_drops"), 3)
    (text,) = set(texts(rows))
    assert text.startswith("d0007")


def test_a_task_whose_examples_are_all_dropped_is_told(monkeypatch, traced):
    monkeypatch.setitem(cached_tasks.KEPT, "text", "none")
    traced.clear()
    ordered.cache_clear()
    with pytest.raises(
        UserError, match="'cached_drops' has no examples: its preprocessors drop them all"
    ):
        next(iter(ordered("cached_drops")))
    traced.clear()
    ordered.cache_clear()


def test_a_task_without_a_cache_is_told_with_both_ways_out():
    with pytest.raises(UserError, match=r"cached_not.*cache_tasks.sh.*USE_CACHED_TASKS=False"):
        ordered("cached_not")


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
