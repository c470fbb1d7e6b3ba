"""The examples of a cached task in an order fixed by a seed, one window at a time.

An epoch is a permutation of all cached examples. The endless row of epochs is dealt out to streams
like cards, one example to each in turn, and what a stream gets is cut into windows. The
preprocessors after the cache, such as span corruption, run on each window separately, with noise of
its own, so that any window can be produced without the ones before it.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.data import spans
from switch_tf.data.answers import right_answers
from switch_tf.data.permutation import key, permute, scattered
from switch_tf.data.task_cache import TaskCache
from switch_tf.errors import UserError

# Cached examples per window: more are made faster, because a window takes some milliseconds however
# short it is; fewer are quicker to redo, in all streams, when a run resumes.
WINDOW = 128
# Numbers of windows whose cached examples are kept: streams are not always at the same.
_KEPT = 4
# More than the number of pieces in any window.
_ALL = 1 << 40
_patching = threading.Lock()

Example = dict[str, np.ndarray]


class Windows:
    """The successive epochs of a cached task, dealt out to streams.

    Args:
      task: a cached `seqio.Task`.
      split: the task's split.
      feature_lengths: feature -> length in tokens.
      seed: seeds the order and the noise.
      streams: the number of streams.

    Raises:
      UserError: see `TaskCache`; or the cache is empty.
    """

    def __init__(
        self,
        task: seqio.Task,
        split: str,
        feature_lengths: Mapping[str, int],
        seed: int,
        streams: int,
    ):
        self.name = task.name
        self.streams = streams
        self._seed = key(seed, task.name)
        self._cache = TaskCache(task, split)
        if not len(self._cache):
            raise UserError(f"cache of '{task.name}', split '{split}': no examples in it")
        spans.check_t5_steps(task, feature_lengths)
        self._dealt = functools.lru_cache(maxsize=_KEPT)(self._make_dealt)
        self._features = sorted(task.output_features)
        self._sizes = [task.output_features[n].vocabulary.vocab_size for n in self._features]
        # Traced now, so that errors in the preprocessors appear before the run rather than during
        # it.
        self._prepared = _prepared(task, self._cache, dict(feature_lengths)).get_concrete_function()

    @property
    def digest(self) -> str:
        """A digest that changes if the task is cached again."""
        return self._cache.digest

    @property
    def num_cached(self) -> int:
        """Number of examples in the cache, which make up an epoch."""
        return len(self._cache)

    @functools.cached_property
    def is_empty(self) -> bool:
        """Whether the preprocessors drop all examples, of which an epoch is read to find one."""
        per_stream = -(-self.num_cached // (self.streams * WINDOW))
        each = itertools.product(range(per_stream), range(self.streams))
        return not any(self.examples(stream, window) for window, stream in each)

    def examples(self, stream: int, window: int) -> list[Example]:
        """The shuffled examples of a window: feature -> int32 [tokens].

        Args:
          stream: the number of the stream.
          window: the number of the window among the stream's, from 0.

        Raises:
          UserError: a token is not in the vocabulary.
        """
        numbers, epochs = (dealt[:, stream] for dealt in self._dealt(window))
        noise = key(self._seed, "noise", stream, window)
        with mesh_lib.host():
            records = tf.constant(self._cache.records(numbers), tf.string)
            found = self._prepared(records, tf.constant(noise - (1 << 63), tf.int64))
        order = _shuffled(int(found[0].nrows()), epochs, noise)
        rows = [(values.values.numpy(), values.row_splits.numpy()) for values in found]
        for name, size, (tokens, _) in zip(self._features, self._sizes, rows, strict=True):
            if tokens.size and tokens.max() >= size:
                raise UserError(
                    f"cache of task '{self.name}' has token {tokens.max()} in '{name}', but the "
                    f"vocabulary has {size}: set VOCABULARY_PATH to the one that it was made with"
                )
        return [
            {
                name: tokens[ends[number] : ends[number + 1]]
                for name, (tokens, ends) in zip(self._features, rows, strict=True)
            }
            for number in order
        ]

    def _make_dealt(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """The cached examples that windows of this number hold, and their epochs.

        Those of all streams, because a permutation of more at once takes hardly longer.

        Returns:
          Two arrays, int64 [WINDOW, streams].
        """
        size = WINDOW * self.streams
        dealt = np.arange(window * size, (window + 1) * size)
        epochs, places = np.divmod(dealt, self.num_cached)
        first = np.flatnonzero(np.diff(epochs, prepend=-1))
        parts = zip(epochs[first].tolist(), np.split(places, first[1:]), strict=True)
        keys = ((part, key(self._seed, "epoch", epoch)) for epoch, part in parts)
        numbers = np.concatenate([permute(part, self.num_cached, seed) for part, seed in keys])
        return numbers.reshape(WINDOW, -1), epochs.reshape(WINDOW, -1)


def _shuffled(count: int, epochs: np.ndarray, seed: int) -> np.ndarray:
    """An order of the examples of a window in which pieces of one cached text are apart.

    Args:
      count: the number of examples.
      epochs: the epoch of each cached example, ascending. Examples of small caches, which have
        several epochs in a window, stay in theirs.
      seed: a result of `key`.

    Returns:
      The numbers of the examples, int64 [count].
    """
    # The cached example that each is of, or about so if a task gives none or several for one.
    of = np.arange(count) * len(epochs) // max(count, 1)
    return np.lexsort((scattered(count, seed), epochs[of]))


def _prepared(task: seqio.Task, cache: TaskCache, lengths: dict[str, int]):
    """A function from (records, noise) to ragged int32 [examples, tokens] per sorted feature."""
    names = sorted(task.output_features)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int64)],
        autograph=False,
    )
    def prepared(records, noise):
        dataset = tf.data.Dataset.from_tensor_slices(records)
        # Not in parallel, which costs more than parsing.
        dataset = dataset.map(cache.parse)
        with _noise_of(noise):
            dataset = task.preprocess_postcache(dataset, lengths, seed=0)
        for name in names:
            if name not in dataset.element_spec:
                raise UserError(f"task '{task.name}': its preprocessors give no '{name}'")
        dataset = seqio.utils.trim_dataset(dataset, lengths, task.output_features)
        dataset = right_answers(dataset)
        # The leading empty row avoids an error if all examples of a window are dropped.
        dataset = dataset.map(lambda example: tuple(tf.cast(example[n], tf.int32) for n in names))
        empty = tf.data.Dataset.from_tensors(tuple(tf.zeros([0], tf.int32) for _ in names))
        everything = empty.concatenate(dataset).ragged_batch(_ALL).get_single_element()
        return [values[1:] for values in everything]

    return prepared


@contextlib.contextmanager
def _noise_of(noise: tf.Tensor):
    """Makes SeqIO's seeds depend on `noise` in functions traced within the context.

    SeqIO draws a preprocessor's seeds from `tf.data.Dataset.random`, whose own seed must be a
    constant: every window would get the same noise.
    """

    def random(seed=None, **_):
        own = np.int64(key("step", str(seed)) >> 1)

        def draw(number):
            pair = tf.stack([tf.bitwise.bitwise_xor(noise, own), number])
            drawn = tf.random.stateless_uniform([], pair, None, None, tf.int64)
            # Not negative, like the values of the dataset that it replaces.
            return tf.bitwise.bitwise_and(drawn, np.int64(2**63 - 1))

        return tf.data.Dataset.range(_ALL).map(draw)

    with _patching:
        before = tf.data.Dataset.random
        tf.data.Dataset.random = staticmethod(random)
        try:
            yield
        finally:
            tf.data.Dataset.random = before
