"""The examples of a cached task in an order that a seed fixes, a window at a time.

An epoch is a permutation of all cached examples, cut into windows. The steps behind the cache, such
as span corruption, run on a window by itself, with noise of its own, so that any window can be made
without those before it.
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

# Cached examples: many to shuffle their pieces among, few to make again when a run resumes.
WINDOW = 1024
# More than the pieces of any window.
_ALL = 1 << 40
_patching = threading.Lock()

Example = dict[str, np.ndarray]


class Windows:
    """Epoch after epoch of a cached task.

    Args:
      task: a cached `seqio.Task`.
      split: its split.
      feature_lengths: feature -> tokens.
      seed: of the order and the noise.

    Raises:
      UserError: as `TaskCache`; or the cache is empty.
    """

    def __init__(self, task: seqio.Task, split: str, feature_lengths: Mapping[str, int], seed: int):
        self.name = task.name
        self._seed = key(seed, task.name)
        self._cache = TaskCache(task, split)
        if not len(self._cache):
            raise UserError(f"cache of '{task.name}', split '{split}': no example in it")
        spans.check_t5_steps(task, feature_lengths)
        self.per_epoch = -(-len(self._cache) // WINDOW)
        self._features = sorted(task.output_features)
        # Traced now: what is wrong in the steps is told before the run, and not in its middle.
        self._prepared = _prepared(task, self._cache, dict(feature_lengths)).get_concrete_function()

    @property
    def digest(self) -> str:
        """What tells the cache from one made anew."""
        return self._cache.digest

    @property
    def num_cached(self) -> int:
        """Examples in the cache: those of an epoch."""
        return len(self._cache)

    def examples(self, window: int) -> list[Example]:
        """The examples of a window, shuffled: feature -> int32 [tokens].

        Args:
          window: counted from the start of the first epoch.
        """
        epoch, place = divmod(window, self.per_epoch)
        first = place * WINDOW
        places = np.arange(first, min(first + WINDOW, self.num_cached))
        numbers = permute(places, self.num_cached, key(self._seed, "epoch", epoch))
        noise = key(self._seed, "noise", window)
        with mesh_lib.host():
            records = tf.constant(self._cache.records(numbers), tf.string)
            found = self._prepared(records, tf.constant(noise - (1 << 63), tf.int64))
        # Those of one cached text lie side by side.
        count = int(found[0].nrows())
        order = permute(np.arange(count), count, noise) if count else ()
        rows = [(values.values.numpy(), values.row_splits.numpy()) for values in found]
        return [
            {
                name: tokens[ends[number] : ends[number + 1]]
                for name, (tokens, ends) in zip(self._features, rows, strict=True)
            }
            for number in order
        ]


def _prepared(task: seqio.Task, cache: TaskCache, lengths: dict[str, int]):
    """Function of (records, noise): the ragged int32 [examples, tokens] of each feature, sorted."""
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
        # An empty row in front, so that a window whose examples are all dropped is no error.
        dataset = dataset.map(lambda example: tuple(tf.cast(example[n], tf.int32) for n in names))
        empty = tf.data.Dataset.from_tensors(tuple(tf.zeros([0], tf.int32) for _ in names))
        everything = empty.concatenate(dataset).ragged_batch(_ALL).get_single_element()
        return [values[1:] for values in everything]

    return prepared


@contextlib.contextmanager
def _noise_of(noise: tf.Tensor):
    """Has SeqIO's seeds depend on `noise`, in what is traced here.

    SeqIO draws the seeds of a step's noise from `tf.data.Dataset.random`, whose own seed has to be
    a number: every window would be noised alike.
    """

    def random(seed=None, **_):
        own = np.int64(key("step", str(seed)) >> 1)

        def draw(number):
            pair = tf.stack([tf.bitwise.bitwise_xor(noise, own), number])
            drawn = tf.random.stateless_uniform([], pair, None, None, tf.int64)
            # As the dataset in whose place it stands: not negative.
            return tf.bitwise.bitwise_and(drawn, np.int64(2**63 - 1))

        return tf.data.Dataset.range(_ALL).map(draw)

    with _patching:
        before = tf.data.Dataset.random
        tf.data.Dataset.random = staticmethod(random)
        try:
            yield
        finally:
            tf.data.Dataset.random = before
