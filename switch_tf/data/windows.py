"""The examples of a cached task in an order fixed by a seed, one window at a time.

An epoch is a permutation of all cached examples, cut into windows. The preprocessors after the
cache, such as span corruption, run on each window separately, with noise of its own, so that any
window can be produced without the ones before it.
"""

import contextlib
import threading
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.data import spans
from switch_tf.data.answers import right_answers
from switch_tf.data.permutation import key, permute
from switch_tf.data.task_cache import TaskCache
from switch_tf.errors import UserError

# Cached examples per window: more shuffle their pieces better, fewer are quicker to redo when a run
# resumes.
WINDOW = 1024
# More than the number of pieces in any window.
_ALL = 1 << 40
_patching = threading.Lock()

Example = dict[str, np.ndarray]


class Windows:
    """The successive epochs of a cached task.

    Args:
      task: a cached `seqio.Task`.
      split: the task's split.
      feature_lengths: feature -> length in tokens.
      seed: seeds the order and the noise.

    Raises:
      UserError: see `TaskCache`; or the cache is empty.
    """

    def __init__(self, task: seqio.Task, split: str, feature_lengths: Mapping[str, int], seed: int):
        self.name = task.name
        self._seed = key(seed, task.name)
        self._cache = TaskCache(task, split)
        if not len(self._cache):
            raise UserError(f"cache of '{task.name}', split '{split}': no examples in it")
        spans.check_t5_steps(task, feature_lengths)
        self.per_epoch = -(-len(self._cache) // WINDOW)
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

    def examples(self, window: int) -> list[Example]:
        """The shuffled examples of a window: feature -> int32 [tokens].

        Args:
          window: the window's number, counted from the start of the first epoch.

        Raises:
          UserError: a token is not in the vocabulary.
        """
        epoch, place = divmod(window, self.per_epoch)
        first = place * WINDOW
        places = np.arange(first, min(first + WINDOW, self.num_cached))
        numbers = permute(places, self.num_cached, key(self._seed, "epoch", epoch))
        noise = key(self._seed, "noise", window)
        with mesh_lib.host():
            records = tf.constant(self._cache.records(numbers), tf.string)
            found = self._prepared(records, tf.constant(noise - (1 << 63), tf.int64))
        # Shuffled, because pieces of one cached text are adjacent.
        count = int(found[0].nrows())
        order = permute(np.arange(count), count, noise) if count else ()
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


def _prepared(task: seqio.Task, cache: TaskCache, lengths: dict[str, int]):
    """A function from (records, noise) to ragged int32 [examples, tokens] per sorted feature."""
    names = sorted(task.output_features)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int64)],
        autograph=False,
    )
    def prepared(records, noise):
        dataset = tf.data.Dataset.from_tensor_slices(records)
        dataset = dataset.map(cache.parse, num_parallel_calls=tf.data.AUTOTUNE)
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
