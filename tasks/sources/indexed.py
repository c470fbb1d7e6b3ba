"""A SeqIO source of examples in memory, accessed by number."""

import abc
from collections.abc import Callable

import seqio
import tensorflow as tf


class IndexedSource(seqio.DataSource):
    """Examples that are shuffled by number over the whole split.

    This keeps an iterator's state small and lets any number of hosts share the examples. Subclasses
    define `num_input_examples` and `look_up`.
    """

    def __init__(self, splits):
        super().__init__(splits=splits, performs_internal_shuffling=True)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """True: any number of hosts share the examples."""
        return True

    def list_shards(self, split: str) -> list[str]:
        """A single shard, because examples rather than files are sharded."""
        return [f"{type(self).__name__}:{split}"]

    @abc.abstractmethod
    def look_up(self, split: str) -> Callable[[tf.Tensor], dict]:
        """Returns a function from an example's number to its tensors."""

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused,
    ) -> tf.data.Dataset:
        """Like SeqIO's, but shuffles over the whole split, differently in each epoch."""
        count = self.num_input_examples(split)
        dataset = tf.data.Dataset.range(count)
        if shard_info:
            dataset = dataset.shard(shard_info.num_shards, shard_info.index)
        if shuffle:
            dataset = dataset.shuffle(count, seed=seed)
        options = tf.data.Options()
        # Look-ups in Python keep no state that a checkpoint of the iterator would miss.
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        return dataset.map(self.look_up(split)).with_options(options)
