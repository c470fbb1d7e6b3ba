"""Batches of a host dataset as DTensors, timing how long the mesh waits for them."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.data import features
from switch_tf.data.batch_shape import count_tokens, feature_axes
from switch_tf.data.ordered import OrderedBatches


class Feed:
    """Iterates over a dataset and shards each batch over a mesh by ("batch", "length").

    The iterator prefetches by itself and is the only holder of the position, so that a checkpoint
    taken between two calls of `next` resumes with the batch of the second call: save
    `tf.train.Checkpoint(iterator=feed.iterator)`.

    Attributes:
      iterator: an iterator of tf.data or of cached tasks; `tf.train.Checkpoint` saves either.
      wait_seconds: time that the last `next` waited for the host's data.
      pack_seconds: time that it took to transfer them to the devices.
      tokens: (input tokens, target tokens) in the last batch, excluding padding.
      positions: (input positions, target positions) in the last batch, including padding.
    """

    def __init__(self, dataset: tf.data.Dataset | OrderedBatches, mesh: mesh_lib.Mesh):
        self.mesh = mesh
        self.wait_seconds = 0.0
        self.pack_seconds = 0.0
        self.tokens = (0, 0)
        self.positions = (0, 0)
        with mesh_lib.host():
            self.iterator = iter(dataset)

    @property
    def padding_share(self) -> float:
        """The share of padding among all positions of the last batch, from 0 to 1."""
        return 1.0 - sum(self.tokens) / max(sum(self.positions), 1)

    def next(self) -> dict:
        """The next batch: feature name -> int32 DTensor [batch, length].

        Raises:
          StopIteration: the dataset is at its end.
          UserError: the reader reports an error in the user's files.
        """
        start = time.perf_counter()
        with mesh_lib.host(), features.user_errors("data"):
            batch = {name: np.asarray(v) for name, v in next(self.iterator).items()}
        fetched = time.perf_counter()
        self.tokens = count_tokens(batch)
        self.positions = (batch["encoder_input_tokens"].size, batch["decoder_target_tokens"].size)
        counted = time.perf_counter()
        packed = {n: self.mesh.pack(v, feature_axes(n)) for n, v in batch.items()}
        self.wait_seconds = fetched - start
        self.pack_seconds = time.perf_counter() - counted
        return packed
