"""Batches of cached tasks and mixtures in an order that is fixed by the seed.

The global batch of step n is a function of (seed, n), regardless of hosts, devices and restarts.
Examples of a mixture's tasks are mixed at its rates, optionally packed, and cut into batches; every
host goes through the same order and keeps its own rows. The position of a run is a few numbers.
"""

import json
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import seqio
import tensorflow as tf

from switch_tf import config
from switch_tf.data import registry
from switch_tf.data.batch_shape import host_rows
from switch_tf.data.permutation import CYCLE, Schedule, key
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


class _Stream:
    """The endless examples of a mixture: `peek` returns the next one, `advance` moves past it."""

    def __init__(self, tasks: list[Windows], schedule: Schedule, position: int, cursors):
        self._tasks, self._schedule = tasks, schedule
        self._loaded: list = [(None, [])] * len(tasks)
        self.position = position
        self.cursors = [list(cursor) for cursor in cursors]

    def peek(self) -> Example:
        number = self._schedule.at(self.position)
        cursor, task = self.cursors[number], self._tasks[number]
        for _ in range(task.per_epoch + 1):
            window, offset = cursor
            if self._loaded[number][0] != window:
                self._loaded[number] = (window, task.examples(window))
            examples = self._loaded[number][1]
            if offset < len(examples):
                return examples[offset]
            cursor[:] = [window + 1, 0]
        raise UserError(
            f"cache of task '{task.name}' has no examples: its preprocessors drop them all"
        )

    def advance(self) -> None:
        self.cursors[self._schedule.at(self.position)][1] += 1
        self.position += 1


class OrderedIterator(tf.train.experimental.PythonState):
    """An iterator over batches that `tf.train.Checkpoint` saves as a few numbers.

    A thread prefetches batches; the saved position is the one after the last batch returned.
    """

    def __init__(self, batches: "OrderedBatches"):
        super().__init__()
        self._batches = batches
        self._state = batches.start()
        self._prefetcher: _Prefetcher | None = None

    def __iter__(self) -> "OrderedIterator":
        return self

    def __next__(self) -> Batch:
        if self._prefetcher is None:
            self._prefetcher = _Prefetcher(self._batches.after(self._state))
            # Otherwise its thread would run as long as the process.
            weakref.finalize(self, self._prefetcher.stop)
        found = self._prefetcher.get()
        if isinstance(found, Exception):
            self._stop()
            raise found
        batch, self._state = found
        return batch

    def _stop(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.stop()
            self._prefetcher = None

    def serialize(self) -> str:
        """The iterator's position, as JSON."""
        return json.dumps(self._state)

    def deserialize(self, string_value: str) -> None:
        """Moves to a position returned by `serialize`.

        Raises:
          UserError: the position belongs to other data.
        """
        text = string_value.decode() if isinstance(string_value, bytes) else string_value
        state = json.loads(text)
        for name, value in self._state["of"].items():
            if state["of"].get(name) != value:
                raise UserError(
                    f"the checkpoint belongs to a run on other data, with {name} "
                    f"{state['of'].get(name)!r} instead of {value!r}: use the data that it was "
                    "trained on, or another MODEL_DIR with this one as INITIAL_CHECKPOINT_PATH"
                )
        self._stop()
        self._state = state


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
      host, num_hosts: selects the `host`-th of `num_hosts` equal parts of each batch.

    Raises:
      UserError: the name is unknown, or a task is not cached or has no examples.
    """

    def __init__(self, data: TaskData, host: int = 0, num_hosts: int = 1):
        rates = _rates(data.provider(), data.split)
        self._schedule = Schedule(rates, key(data.seed, "mixture"))
        lengths = data.task_feature_lengths
        self._tasks = [
            Windows(seqio.TaskRegistry.get(name), data.split, lengths, data.seed) for name in rates
        ]
        self._lengths = {name: lengths[name] for name in _SIDES}
        self._batch_size, self._pack = data.batch_size, data.pack
        self._rows = host_rows(data.batch_size, host, num_hosts)
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
            "windows": [WINDOW, CYCLE],
        }

    def __iter__(self) -> OrderedIterator:
        return OrderedIterator(self)

    def describe(self) -> str:
        """A line that describes the order."""
        tasks = self._of["examples"]
        return (
            f"data: cache of {len(tasks)} task{'s' * (len(tasks) > 1)}, {sum(tasks.values()):,} "
            "cached examples per epoch; the batch of step n depends only on (seed, n)"
        )

    def start(self) -> dict:
        """The state before the first batch."""
        count = len(self._of["examples"])
        return {"position": 0, "cursors": [[0, 0]] * count, "of": self._of}

    def after(self, state: dict) -> Iterator[tuple[Batch, dict]]:
        """Yields the batches after a state, each with the state after it."""
        stream = self._stream(state)
        while True:
            rows = [self._row(stream) for _ in range(self._batch_size)]
            cursors = [list(cursor) for cursor in stream.cursors]
            behind = {"position": stream.position, "cursors": cursors, "of": self._of}
            yield self._batch([rows[number] for number in self._rows]), behind

    def _stream(self, state: dict) -> _Stream:
        return _Stream(self._tasks, self._schedule, state["position"], state["cursors"])

    def _row(self, stream: _Stream) -> list[Example]:
        """The examples of the next row: one or, if packed, as many as fit, in order."""
        row, room = [], dict(self._lengths)
        while True:
            example = stream.peek()
            lengths = {name: len(example[name]) for name in _SIDES}
            if row and any(lengths[name] > room[name] for name in _SIDES):
                return row
            row.append(example)
            stream.advance()
            room = {name: room[name] - lengths[name] for name in _SIDES}
            if not self._pack or not any(lengths.values()):
                return row

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
