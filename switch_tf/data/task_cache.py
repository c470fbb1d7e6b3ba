"""Random access to the examples of a task that SeqIO's Beam pipeline has cached."""

import hashlib
import io
import json
import os
import time
import zipfile
from typing import IO

import numpy as np
import seqio
import tensorflow as tf

from switch_tf import storage
from switch_tf.data import tfrecords
from switch_tf.errors import UserError
from switch_tf.stages import counting

# Records that are read at a time to find a damaged one.
_AT_A_TIME = 1024


def _open(path: str) -> IO[bytes]:
    # Buffering is off because TensorFlow's reader fetches half a megabyte after each seek.
    return storage.opened(path, "rb") if storage.is_remote(path) else open(path, "rb", buffering=0)


def checked_source(task: seqio.Task, split: str):
    """SeqIO's source of a task's cache, which would not notice by itself that examples are missing.

    Raises:
      UserError: see `TaskCache`.
    """
    TaskCache(task, split)
    return task._get_cached_source(split)


def check_records(task: seqio.Task, split: str, until: float) -> None:
    """Reads the cached records of a task, if there are any, to name the file that is damaged.

    Args:
      task: the task.
      split: the split.
      until: the time, by `time.monotonic`, after which no more are read.

    Raises:
      UserError: a record or a file is damaged.
    """
    if not task.cache_dir or split not in task.splits:
        return
    cache = TaskCache(task, split)
    for first in range(0, len(cache), _AT_A_TIME):
        cache.records(np.arange(first, min(first + _AT_A_TIME, len(cache))))
        if time.monotonic() > until:
            return


class TaskCache:
    """The cached examples of one split of a task.

    Args:
      task: a `seqio.Task` that scripts/cache_tasks.sh has cached.
      split: the task's split.

    Raises:
      UserError: the task is not cached, or a file is missing or damaged.
    """

    def __init__(self, task: seqio.Task, split: str):
        if not task.supports_caching:
            raise UserError(
                f"task '{task.name}' cannot be cached: none of its preprocessors is "
                "seqio.CacheDatasetPlaceholder(); set USE_CACHED_TASKS=False"
            )
        if not task.cache_dir:
            folders = ", ".join(seqio.get_global_cache_dirs()) or "none is set"
            raise UserError(
                f"task '{task.name}' is not cached (CACHE_DIR: {folders}), which "
                "USE_CACHED_TASKS=True requires: cache it with scripts/cache_tasks.sh "
                f"--tasks={task.name}, or set USE_CACHED_TASKS=False"
            )
        self._what = f"cache of task '{task.name}' in {task.cache_dir}"
        info = self._read_json(seqio.get_cached_info_path(task.cache_dir, split))
        if not info:
            raise UserError(f"{self._what}: no examples in its split '{split}'")
        self._features = {name: self._feature(name, f) for name, f in info["features"].items()}
        prefix = seqio.get_cached_tfrecord_prefix(task.cache_dir, split)
        count = info["num_shards"]
        self._paths = [f"{prefix}-{number:05d}-of-{count:05d}" for number in range(count)]
        self._offsets = self._index(f"{prefix}.offsets.npz")
        self._ends = np.cumsum([len(offsets) for offsets in self._offsets])
        written = self._read_json(seqio.get_cached_stats_path(task.cache_dir, split))["examples"]
        if len(self) != written:
            names = os.path.basename(self._paths[0])
            if len(self._paths) > 1:
                names += f" to {os.path.basename(self._paths[-1])}"
            raise UserError(
                f"{self._what}: split '{split}' has {len(self):,} examples in {names}, but "
                f"{written:,} were written; cache the task again with --overwrite"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def records(self, numbers: np.ndarray) -> list[bytes]:
        """Reads the records with these numbers, in the given order."""
        numbers = np.asarray(numbers)
        files = np.searchsorted(self._ends, numbers, side="right")
        found: list[bytes] = [b""] * len(numbers)
        for file in np.unique(files):
            offsets = self._offsets[file]
            with _open(self._paths[file]) as stream:
                places = np.flatnonzero(files == file)
                first = self._ends[file] - len(offsets)
                # In file order, because disks and even more so clouds read forward faster than
                # backward.
                for place in places[np.argsort(numbers[places])]:
                    found[place] = self._record(
                        stream, self._paths[file], int(offsets[numbers[place] - first])
                    )
        return found

    def _record(self, stream: IO[bytes], path: str, offset: int) -> bytes:
        stream.seek(offset)
        header = stream.read(tfrecords.HEADER)
        length = int.from_bytes(header[:8], "little")
        rest = stream.read(length + tfrecords.FOOTER) if tfrecords.is_header(header) else b""
        record = rest[:length]
        if tfrecords.checksum(record) != rest[length:]:
            raise UserError(
                f"{self._what}: {path} is damaged at byte {offset}; cache the task again with "
                "--overwrite"
            )
        return record

    @property
    def digest(self) -> str:
        """A digest that changes if the task is cached again."""
        lengths = np.concatenate([np.diff(offsets) for offsets in self._offsets])
        return hashlib.blake2b(lengths.tobytes(), digest_size=6).hexdigest()

    def parse(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        """Parses a record into the cached tensors."""
        stored = {name: feature for name, (feature, _) in self._features.items()}
        parsed = tf.io.parse_single_example(record, stored)
        return {name: tf.cast(parsed[name], dtype) for name, (_, dtype) in self._features.items()}

    def _read_json(self, path: str) -> dict:
        try:
            with tf.io.gfile.GFile(path) as file:
                return json.load(file)
        except (tf.errors.OpError, ValueError) as error:
            self._check_lasts(error, path)
            raise UserError(
                f"{self._what}: {path} cannot be read; cache the task again with --overwrite"
            ) from error

    def _feature(self, name: str, described: dict) -> tuple:
        """The storage format of a feature in SeqIO's cache, and its dtype."""
        shape, dtype = described["shape"], described["dtype"]
        # int64 is the only integer type of tf.train.Example.
        stored = "int64" if dtype in ("int32", "bool") else dtype
        if None in shape[1:]:
            raise UserError(f"{self._what}: feature '{name}' is ragged, which is not supported")
        if shape and shape[0] is None:
            return tf.io.FixedLenSequenceFeature(shape[1:], stored, allow_missing=True), dtype
        return tf.io.FixedLenFeature(shape, stored), dtype

    def _index(self, path: str) -> list[np.ndarray]:
        """The offset of each record in each file, stored next to the files if they are writable."""
        sizes = [self._size(p) for p in self._paths]
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                kept = np.load(io.BytesIO(file.read()))
                if kept["sizes"].tolist() == sizes:
                    return np.split(kept["offsets"], np.cumsum(kept["counts"])[:-1])
        except (tf.errors.OpError, ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            # Missing or incomplete: the index is built again.
            pass
        offsets = []
        with counting("indexing the cache", "files", len(sizes), at_once=False) as add:
            for each, size in zip(self._paths, sizes, strict=True):
                offsets.append(self._scan(each, size))
                add(1)
        content = io.BytesIO()
        counts = [len(o) for o in offsets]
        np.savez(content, sizes=sizes, counts=counts, offsets=np.concatenate(offsets))
        try:
            storage.write_atomically(path, content.getvalue())
        except storage.errors():
            print(f"{path} cannot be written: the index is rebuilt in each run")
        return offsets

    def _check_lasts(self, error: Exception, path: str) -> None:
        """Checks that an error says something of a file, and not of its file system for now.

        Raises:
          StorageFails: it may pass.
        """
        if storage.is_passing(error, path):
            raise storage.failure(f"{self._what}: {path} cannot be read", error) from error

    def _size(self, path: str) -> int:
        try:
            return tf.io.gfile.stat(path).length
        except tf.errors.OpError as error:
            self._check_lasts(error, path)
            raise UserError(
                f"{self._what}: {path} is missing; cache the task again with --overwrite"
            ) from error

    def _scan(self, path: str, size: int) -> np.ndarray:
        with _open(path) as stream:
            offsets, cut_off = tfrecords.scan(stream, size)
        if cut_off is not None:
            raise UserError(
                f"{self._what}: {path} is cut off at byte {cut_off}; cache the task again with "
                "--overwrite"
            )
        return offsets
