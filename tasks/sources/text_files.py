"""A SeqIO source of documents in text files and JSON lines, located at first use."""

import collections
import sys
from collections.abc import Callable

import seqio
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.tasks.sources import local_files
from switch_tf.tasks.sources.official import bad_data

# The blanks of `str.strip`, as a TensorFlow regular expression, whose `\s` covers only ASCII.
_BLANK = r"[\s\v\x1c-\x1f\x{85}\p{Z}]"

# Path -> numbers of the lines dropped since the process started.
_left_out: dict[str, set[int]] = collections.defaultdict(set)


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
    compressed = tf.strings.regex_full_match(path, r".*\.gz")
    is_json = tf.strings.regex_full_match(path, r".*\.jsonl?(\.gz)?")
    lines = tf.data.TextLineDataset(path, tf.where(compressed, "GZIP", ""))
    ends = f"^{_BLANK}+|{_BLANK}+$"
    # A final blank line closes the last block.
    lines = lines.map(lambda line: (line, False))
    lines = lines.concatenate(tf.data.Dataset.from_tensors(("", True))).enumerate(1)

    def text_of_line(block, number, line):
        told = (path, number, line, policy)
        text = tf.numpy_function(_text_of_line, told, tf.string, stateful=False)
        return block, tf.ensure_shape(text, ())

    def close_block(block, number, line):
        good = tf.strings.unicode_transcode(line, "UTF-8", "UTF-8", errors="ignore") == line
        told = (path, number, line, policy)
        line = tf.cond(
            good, lambda: line, lambda: tf.numpy_function(_decoded, told, tf.string, False)
        )
        line = tf.ensure_shape(line, ())
        # Some editors write a byte order mark.
        line = tf.cond(
            number == 1, lambda: tf.strings.regex_replace(line, "^\ufeff", ""), lambda: line
        )
        blank = good & tf.strings.regex_full_match(line, _BLANK + "*")
        block = tf.where(blank | ~good, block, tf.strings.join([block, line, "\n"]))
        length = tf.strings.length(block, unit="UTF8_CHAR")
        closed = tf.logical_or(blank, length >= local_files.MAX_CHARACTERS)
        text = tf.cond(closed, lambda: tf.strings.regex_replace(block, ends, ""), lambda: "")
        return tf.where(closed, "", block), text

    def step(state, numbered):
        (block, size), (number, (line, is_end)) = state, numbered
        # TensorFlow does not notice that a gzip file is truncated.
        line = tf.cond(
            is_end & compressed,
            lambda: tf.numpy_function(_check_end, (path, size), tf.string, False),
            lambda: line,
        )
        line = tf.ensure_shape(line, ())
        block, text = tf.cond(
            is_json,
            lambda: text_of_line(block, number, line),
            lambda: close_block(block, number, line),
        )
        return (block, size + tf.cast(tf.strings.length(line), tf.int64) + 1), text

    texts = lines.scan((tf.constant(""), tf.constant(0, tf.int64)), step)
    return texts.filter(lambda text: text != "").map(lambda text: {"text": text})


def _text_of_line(path: bytes, number: int, line: bytes, policy: bytes) -> bytes:
    def read(name):
        return local_files.text_of_line(name, number, local_files.decode(name, number, line))

    return _or_left_out(read, path, number, policy)


def _decoded(path: bytes, number: int, line: bytes, policy: bytes) -> bytes:
    return _or_left_out(lambda name: local_files.decode(name, number, line), path, number, policy)


def _or_left_out(read: Callable[[str], str], path: bytes, number: int, policy: bytes) -> bytes:
    """Reads a line; returns nothing if it is bad and BAD_DATA is "skip"."""
    name = path.decode()
    try:
        return read(name).encode()
    except UserError as error:
        if policy != b"skip":
            raise
        _leave_out(name, number, error)
        return b""


def _leave_out(name: str, number: int, error: UserError) -> None:
    """Counts and reports a dropped line, once over all epochs."""
    lines = _left_out[name]
    if number in lines:
        return
    lines.add(number)
    # Reports at powers of two: the first line, then ever more rarely.
    if len(lines) & (len(lines) - 1) == 0:
        print(f"{name}: {len(lines)} lines skipped (BAD_DATA='skip'): {error}", file=sys.stderr)


def _check_end(path: bytes, size: int) -> bytes:
    """Reads a whole gzip file again if the size read differs from the one recorded at its end.

    Raises:
      UserError: it is truncated or otherwise damaged.
    """
    name = path.decode()
    # The last line may lack a line break.
    if not any(local_files.has_gzip_size(name, n) for n in (size, size - 1)):
        # The size may also differ because of carriage returns.
        collections.deque(local_files.raw_lines(name), maxlen=0)
    return b""
