"""A SeqIO source of documents in text files and JSON lines, located at first use."""

import collections
import itertools
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import seqio
import tensorflow as tf

from switch_tf.data.skipping import bad_data
from switch_tf.errors import UserError
from switch_tf.tasks.sources import local_files

# Documents that are read at a time; fewer of them if they are long.
_AT_A_TIME, _CHARACTERS_AT_A_TIME = 64, 1 << 20
# Files in the middle of which a process may be, each with a tenth of a megabyte.
_MOST_READERS = 2048

# Path -> errors of the lines dropped since the process started.
_left_out: dict[str, set[str]] = collections.defaultdict(set)


class TextFiles(seqio.FileDataSource):
    """Examples {"text": document}.

    `switch_tf.tasks.sources.local_files.documents` describes the format of the files. BAD_DATA
    decides whether a bad line stops the run or is counted and dropped.

    Args:
      find: returns the sorted paths of a split; raises `UserError` if there are none.
      splits: the names of the splits.
    """

    def __init__(self, find: Callable[[str], list[str]], splits=("train", "validation")):
        super().__init__(_read, dict.fromkeys(splits, ""))
        self._find = find

    def list_shards(self, split: str) -> list[str]:
        """Checks and returns the files of a split.

        Raises:
          UserError: see `find` and `local_files.check`.
        """
        paths = self._find(split)
        local_files.check(paths, bad_data())
        return paths

    def paths(self, split: str) -> list[str]:
        """The files of a split, unchecked.

        Raises:
          UserError: see `find`.
        """
        return self._find(split)

    def num_input_examples(self, split: str) -> int:
        """Number of documents in a split; above a gigabyte, extrapolated from its first file.

        Raises:
          UserError: see `list_shards`.
        """
        return local_files.count(self.list_shards(split), bad_data())

    def get_dataset(self, split: str = "train", *args, **kwargs) -> tf.data.Dataset:
        """See `seqio.DataSource.get_dataset`."""
        options = tf.data.Options()
        # Lines are parsed in Python, without any state that a checkpoint would miss.
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        return super().get_dataset(split, *args, **kwargs).with_options(options)

    def prepare(self) -> None:
        """Reads the files of every split, so that errors in them appear at once."""
        for split in self.splits:
            self.list_shards(split)


def _read(path: tf.Tensor) -> tf.data.Dataset:
    """Reads `local_files.documents` as a dataset whose position checkpoints save.

    A Python generator would be shorter, but its position would be lost with the process.
    """
    policy = bad_data()

    def step(number, _):
        told = (path, number, policy)
        texts = tf.numpy_function(_readers.next_documents, told, tf.string, stateful=False)
        texts = tf.ensure_shape(texts, [None])
        return number + tf.size(texts, tf.int64), texts

    parts = tf.data.Dataset.range(tf.int64.max).scan(tf.constant(0, tf.int64), step)
    parts = parts.take_while(lambda texts: tf.size(texts) > 0)
    return parts.unbatch().map(lambda text: {"text": text})


class _Readers:
    """The documents of files, of which each call takes up where another one ended."""

    def __init__(self):
        # (Path, policy, number of documents read) -> iterators over the others.
        self._there: collections.OrderedDict[tuple, Iterator[str]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def next_documents(self, path: bytes, number: int, policy: bytes) -> np.ndarray:
        """The next documents of a file as an array of bytes; empty at its end.

        Args:
          path: the path of the file.
          number: number of documents before them.
          policy: BAD_DATA.

        Raises:
          UserError: see `local_files.documents`; or the file has changed since it was checked.
        """
        name, is_strict = path.decode(), policy != b"skip"
        key = name, is_strict
        with self._lock:
            reader = self._there.pop((*key, int(number)), None)
        if reader is None:
            reader = local_files.documents(name, _stop if is_strict else _leave_out(name))
            collections.deque(itertools.islice(reader, int(number)), maxlen=0)
        found, length = [], 0
        for text in itertools.islice(reader, _AT_A_TIME):
            found.append(text.encode())
            length += len(text)
            if length >= _CHARACTERS_AT_A_TIME:
                break
        if not found:
            local_files.check_all_read(name, int(number), policy.decode())
        with self._lock:
            if found:
                self._there[(*key, int(number) + len(found))] = reader
            while len(self._there) > _MOST_READERS:
                self._there.popitem(last=False)
        return np.array(found, object)


_readers = _Readers()


def _stop(error: UserError) -> None:
    raise error


def _leave_out(name: str) -> Callable[[UserError], None]:
    """A function that counts and reports dropped lines of a file, once over all epochs."""
    errors = _left_out[name]

    def leave_out(error: UserError) -> None:
        if str(error) in errors:
            return
        errors.add(str(error))
        # Reports at powers of two: the first line, then ever more rarely.
        if len(errors) & (len(errors) - 1) == 0:
            told = f"{len(errors)} lines skipped (BAD_DATA='skip'): {error}"
            print(f"{name}: {told}", file=sys.stderr)

    return leave_out
