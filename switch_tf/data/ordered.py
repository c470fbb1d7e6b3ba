"""Batches of cached tasks and mixtures in an order that is fixed by the seed.

The global batch of step n is a function of (seed, n), regardless of hosts, devices and restarts.
Its rows come from streams, each of which mixes the examples of its share at the mixture's rates and
optionally packs them; a host makes the streams that hold its rows. The position of a run is some
numbers for each stream.
"""

import itertools
import json
import queue
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated

import numpy as np
import seqio
import tensorflow as tf

from switch_tf import config
from switch_tf.data import registry
from switch_tf.data.batch_shape import OwnRows
from switch_tf.data.permutation import CYCLE, Schedule, key
from switch_tf.data.streams import Stream, number_of_streams
from switch_tf.data.task_cache import TaskCache
from switch_tf.data.task_data import TaskData
from switch_tf.data.windows import WINDOW, Example, Windows
from switch_tf.errors import UserError
from switch_tf.rules import Folder, Path, Rule

_AHEAD = 4
# Task feature -> side of the model, and the model features that hold its tokens.
_SIDES = {"inputs": "encoder", "targets": "decoder"}
_TOKENS = {"inputs": "encoder_input_tokens", "targets": "decoder_target_tokens"}

_CACHE_DIR = Folder("the folder that scripts/cache_tasks.sh wrote")
_NO_PATTERN = Rule(
    "a path in quotes without *, ? and [, which SeqIO takes for patterns",
    lambda path: not set("*?[") & set(str(path)),
)
OTHER_RUN = "another MODEL_DIR with this one as INITIAL_CHECKPOINT_PATH"

Batch = dict[str, np.ndarray]


def use_cache_dir() -> None:
    """Makes SeqIO look for cached tasks in CACHE_DIR, if gin sets it.

    Raises:
      UserError: it is not a folder.
    """
    folder = config.macro("CACHE_DIR", None, annotation=Annotated[Path, _CACHE_DIR, _NO_PATTERN])
    if folder is None:
        return
    folder = _CACHE_DIR.check("CACHE_DIR", folder)
    if folder not in seqio.get_global_cache_dirs():
        seqio.add_global_cache_dirs([folder])


def cached_tasks(provider, split: str) -> list[seqio.Task]:
    """The tasks of a task or mixture whose caches contain the split.

    A mixture's tasks without data, such as absent languages, need no cache.

    Raises:
      UserError: another task is not cached, or no cache contains the split; the message names it.
    """
    tasks = list(seqio.get_subtasks(provider))
    cached = [task for task in tasks if task.supports_caching and task.cache_dir]
    for task in tasks:
        # Raises the error that it is not cached, where SeqIO would give a traceback.
        if task not in cached and not (cached and _may_lack(task)):
            TaskCache(task, split)
    found = [
        task
        for task in cached
        if tf.io.gfile.exists(seqio.get_cached_info_path(task.cache_dir, split))
    ]
    if not found:
        raise UserError(f"the cache of '{provider.name}' has no split '{split}'")
    return found


def _may_lack(task: seqio.Task) -> bool:
    return getattr(task.source, "may_lack", False)


def _rates(provider, split: str) -> dict[str, float]:
    """Task -> rate, for the tasks whose caches contain the split and that are trained on."""
    tasks = cached_tasks(provider, split)
    if not isinstance(provider, seqio.Mixture):
        return {provider.name: 1.0}
    registry.check_rates(provider, tasks)
    rates = {task.name: provider.get_rate(task) for task in tasks}
    return {name: rate for name, rate in rates.items() if rate > 0}


class OrderedIterator(tf.train.experimental.PythonState):
    """An iterator over batches that `tf.train.Checkpoint` saves as some numbers.

    A thread prefetches batches; the saved position is the one after the last batch returned. It is
    that of the streams that this host makes, and after `join` also of the others.
    """

    def __init__(self, batches: "OrderedBatches"):
        super().__init__()
        self._batches = batches
        self._state = batches.start()
        self._prefetcher: _Prefetcher | None = None

    def __iter__(self) -> "OrderedIterator":
        return self

    def __next__(self) -> Batch:
        batch, state = self.ahead()
        self.move_to(state)
        return batch

    def ahead(self) -> tuple[Batch, dict]:
        """The next batch, and the position behind it; `move_to` takes that."""
        if self._prefetcher is None:
            self._prefetcher = _Prefetcher(self._batches.after(self._state))
            # Otherwise its thread would run as long as the process.
            weakref.finalize(self, self._prefetcher.stop)
        found = self._prefetcher.get()
        if isinstance(found, Exception):
            self._stop()
            raise found
        return found

    def move_to(self, state: dict) -> None:
        """Moves to the position behind the last batch, as `ahead` gave it."""
        self._state = state

    def _stop(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.stop()
            self._prefetcher = None

    def join(self, positions: Iterable[str]) -> None:
        """Takes in the positions of other hosts at this step, until the next batch.

        Args:
          positions: what `serialize` gives on each of them.

        Raises:
          ValueError: one has made another number of batches.
        """
        streams = dict(self._state["streams"])
        for other in map(_parsed, positions):
            if other["batches"] != self._state["batches"]:
                made = f"{other['batches']:,} and {self._state['batches']:,}"
                raise ValueError(f"hosts that save the same step have made {made} batches")
            streams |= other["streams"]
        self._state = self._state | {"streams": streams}

    def serialize(self) -> str:
        """The iterator's position, as JSON."""
        return json.dumps(self._state)

    def deserialize(self, string_value: str) -> None:
        """Moves to a position returned by `serialize`.

        Raises:
          UserError: the position belongs to other data, or lacks a stream of this host.
        """
        state = _parsed(string_value)
        self._batches.check(state)
        self._stop()
        self._state = state


def _parsed(text: str | bytes) -> dict:
    """A position from JSON, whose names are all texts, with streams by number."""
    state = json.loads(text)
    streams = {int(number): position for number, position in state.get("streams", {}).items()}
    return state | {"streams": streams}


class _Prefetcher:
    """Prefetches from an endless iterator in a thread; errors are passed on as items."""

    def __init__(self, items: Iterator):
        self._queue: queue.Queue = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(items,), daemon=True)
        self._thread.start()

    def get(self):
        return self._queue.get()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _fill(self, items: Iterator) -> None:
        try:
            for item in items:
                if not self._put(item):
                    return
        except Exception as error:  # Raised again where the batch is asked for.
            self._put(error)

    def _put(self, item) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


class OrderedBatches:
    """Endless shuffled batches of a cached task or mixture.

    Args:
      data: the data to read, cached in CACHE_DIR or another of SeqIO's cache folders.
      wanted: the rows of each batch that this host needs; None for all.

    Attributes:
      rows: the rows that are made, ascending: those of all streams that hold a wanted one. The
        others are zeros.

    Raises:
      UserError: the name is unknown, or a task is not cached or has no examples.
    """

    def __init__(self, data: TaskData, wanted: Collection[int] | None = None):
        rates = _rates(data.provider(), data.split)
        self._schedule = Schedule(rates, key(data.seed, "mixture"))
        lengths = data.task_feature_lengths
        streams = number_of_streams(data.batch_size)
        self._tasks = [
            Windows(seqio.TaskRegistry.get(name), data.split, lengths, data.seed, streams)
            for name in rates
        ]
        self._lengths = {name: lengths[name] for name in _SIDES}
        self._pack = data.pack
        self._own = OwnRows(data.batch_size, streams, wanted)
        self.rows = self._own.rows
        self._of = {
            "task": data.mixture_or_task_name,
            "split": data.split,
            "lengths": self._lengths,
            "batch size": data.batch_size,
            "pack": data.pack,
            "seed": data.seed,
            "examples": {task.name: task.num_cached for task in self._tasks},
            "shares": self._schedule.shares,
            "caches": [task.digest for task in self._tasks],
            "windows": [WINDOW, CYCLE, streams],
        }

    def __iter__(self) -> OrderedIterator:
        return OrderedIterator(self)

    def describe(self) -> str:
        """A line that describes the order, and which rows are made if not all are."""
        tasks = self._of["examples"]
        return (
            f"data: cache of {len(tasks)} task{'s' * (len(tasks) > 1)}, {sum(tasks.values()):,} "
            "cached examples per epoch; the batch of step n depends only on (seed, n)"
            f"{self._own.describe()}"
        )

    def start(self) -> dict:
        """The state before the first batch."""
        streams = range(self._tasks[0].streams)
        first = Stream.start(len(self._tasks))
        return {"batches": 0, "streams": dict.fromkeys(streams, first), "of": self._of}

    def check(self, state: dict) -> None:
        """Checks that the batches after a state are of this data, and can be made.

        Raises:
          UserError: they are of other data, or the state lacks a stream.
        """
        for name, own in self._of.items():
            value = state["of"].get(name)
            if name == "windows" and value != own:
                raise UserError(
                    "the checkpoint belongs to a run of another version, which read caches in "
                    f"another order: go on with that version, or use {OTHER_RUN}"
                )
            if value != own:
                raise UserError(
                    f"the checkpoint belongs to a run on other data, with {name} {value!r} instead "
                    f"of {own!r}: use the data that it was trained on, or {OTHER_RUN}"
                )
        missing = sorted(set(self._own.parts) - set(state["streams"]))
        if missing:
            raise UserError(
                f"the checkpoint lacks the position of streams {missing} of the data, so that it "
                f"cannot be gone on with: use {OTHER_RUN}"
            )

    def after(self, state: dict) -> Iterator[tuple[Batch, dict]]:
        """Yields the batches after a state, each with the state after it."""
        parts = self._tasks, self._schedule, self._lengths, self._pack
        made = {n: Stream(n, *parts, state["streams"][n]) for n in self._own.parts}
        for batches in itertools.count(state["batches"] + 1):
            rows = [stream.row() for stream in made.values() for _ in range(self._own.per_part)]
            positions = {number: stream.position for number, stream in made.items()}
            batch = {name: self._own.placed(v) for name, v in self._batch(rows).items()}
            yield batch, {"batches": batches, "streams": positions, "of": self._of}

    def _batch(self, rows: list[list[Example]]) -> Batch:
        """Converts rows to the features of SeqIO's `EncDecFeatureConverter`."""
        batch = {}
        for name, side in _SIDES.items():
            shape = (len(rows), self._lengths[name])
            tokens, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
            for number, row in enumerate(rows):
                start = 0
                for segment, example in enumerate(row, 1):
                    end = start + len(example[name])
                    tokens[number, start:end] = example[name]
                    segments[number, start:end] = segment
                    positions[number, start:end] = np.arange(end - start)
                    start = end
            batch[_TOKENS[name]] = tokens
            if self._pack:
                batch |= {f"{side}_segment_ids": segments, f"{side}_positions": positions}
        targets = batch["decoder_target_tokens"]
        shifted = np.pad(targets, [(0, 0), (1, 0)])[:, :-1]
        if self._pack:
            segments = batch["decoder_segment_ids"]
            shifted = shifted * (segments == np.pad(segments, [(0, 0), (1, 0)])[:, :-1])
        batch["decoder_input_tokens"] = shifted.astype(np.int32)
        batch["decoder_loss_weights"] = (targets != 0).astype(np.int32)
        return batch
