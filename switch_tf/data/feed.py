"""Batches of a host dataset as DTensors, with the time that the mesh waits for them."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.data import features
from switch_tf.data.batch_shape import count_tokens, feature_axes
from switch_tf.data.ordered import OrderedBatches


class Feed:
    """Iterates a dataset and lays each batch out over a mesh by ("batch", "length").

    The iterator alone holds the position, and reads ahead by itself, so that a checkpoint taken
    between two calls of `next` resumes with the batch that the second one gives:
    `tf.train.Checkpoint(iterator=feed.iterator)`.

    Attributes:
      iterator: of tf.data, or of cached tasks; `tf.train.Checkpoint` saves either.
      wait_seconds: how long the last `next` waited for the host's data.
      pack_seconds: how long it took to bring them to the devices.
      tokens: (input tokens, target tokens) of the last batch that are not padding.
      positions: (input positions, target positions) of the last batch, padding too.
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
        """Share of padding among all positions of the last batch, 0 to 1."""
        return 1.0 - sum(self.tokens) / max(sum(self.positions), 1)

    def next(self) -> dict:
        """The next batch: feature name -> int32 DTensor [batch, length].

        Raises:
          StopIteration: the dataset is at its end.
          UserError: what the reader reports of the user's files.
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
