"""Axes, lengths and rows of batches, with checks that need no TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError

FEATURE_LENGTHS = "TASK_FEATURE_LENGTHS"
TASK_FEATURES = ("inputs", "targets")
# Shares of a task's examples, or of their tokens, that a model does not see; see `lost.Lost`.
LOST_SHARES = tuple(f"{how}_{name}" for how in ("truncated", "unknown") for name in TASK_FEATURES)


def feature_axes(name: str) -> tuple[str, str]:
    """The axis names of the feature `name`, which are ("batch", "length") for every feature."""
    if not re.fullmatch(
        r"encoder_(input_tokens|segment_ids|positions)"
        r"|decoder_(target_tokens|input_tokens|loss_weights|segment_ids|positions)",
        name,
    ):
        raise KeyError(name)
    return ("batch", "length")


def check_batch(
    batch_size: int,
    feature_lengths: Mapping[str, int],
    rules: Mapping[str, str],
    mesh_shape: Mapping[str, int],
    setting: str = "BATCH_SIZE",
) -> None:
    """Checks that batches of `batch_size` examples can be sharded over the mesh.

    Args:
      batch_size: examples in a global batch.
      feature_lengths: lengths of "inputs" and "targets", in tokens.
      rules: axis name -> mesh dimension.
      mesh_shape: mesh dimension -> size.
      setting: the setting that gives the batch size.

    Raises:
      UserError: they cannot; the message names that setting or TASK_FEATURE_LENGTHS, and
        MESH_SHAPE.
    """
    mesh_lib.check_divides(rules, mesh_shape, {"batch": (batch_size, setting)})
    for name, length in feature_lengths.items():
        of_feature = f"{FEATURE_LENGTHS}['{name}']"
        mesh_lib.check_divides(rules, mesh_shape, {"length": (length, of_feature)})


def check_parts(batch_size: int, count: int, ways: int) -> None:
    """Checks that a batch divides into parts with the same number of whole examples per device.

    Args:
      batch_size: examples in a global batch.
      count: number of micro-batches.
      ways: number of devices that the batch is split over.

    Raises:
      UserError: it does not.
    """
    if batch_size % (count * ways):
        devices = f"{ways} device{'s' * (ways > 1)}"
        raise UserError(
            f"BATCH_SIZE={batch_size} cannot be divided into {count} micro-batches of whole "
            f"examples on {devices}: change BATCH_SIZE or TrainStep.microbatches"
        )


def check_shares(batch_size: int, shares: int, use_cached: bool) -> None:
    """Checks that a batch can be made of shares of the examples, each with as many rows.

    Args:
      batch_size: examples in a global batch.
      shares: number of shares.
      use_cached: whether tasks are read from their caches.

    Raises:
      UserError: it cannot.
    """
    if use_cached and shares > 1:
        raise UserError(
            f"TaskData.shares={shares} is of tasks that are not cached: leave it out, as hosts "
            "share caches by themselves, or set USE_CACHED_TASKS=False"
        )
    if batch_size % shares:
        raise UserError(
            f"BATCH_SIZE={batch_size} is not divisible by TaskData.shares={shares}: give each "
            "share as many rows"
        )


def host_rows(batch_size: int, host: int, num_hosts: int) -> range:
    """The rows of a global batch that a host produces.

    Raises:
      UserError: the batch size is not divisible by the number of hosts.
    """
    if batch_size % num_hosts:
        raise UserError(
            f"BATCH_SIZE={batch_size} is not divisible by {num_hosts} hosts: give a multiple"
        )
    part = batch_size // num_hosts
    return range(host * part, (host + 1) * part)


def local_rows(batch_size: int, mesh: mesh_lib.Mesh) -> list[int]:
    """The rows of a global batch that the devices of this process hold, ascending."""
    places = mesh.local_places(("batch",), (batch_size,))
    return sorted({row for (rows,) in places for row in range(rows.start, rows.stop)})


class OwnRows:
    """The rows of a batch that a host makes.

    A batch has equal parts, each made as a whole by every host that needs one of its rows.

    Args:
      batch_size: rows in a global batch.
      number: the number of parts, which divides the batch size.
      wanted: the rows that this host needs; None for all.

    Attributes:
      parts: the parts that this host makes, ascending.
      per_part: the number of rows of each.
      rows: their rows, ascending.
    """

    def __init__(self, batch_size: int, number: int, wanted: Collection[int] | None):
        self._batch_size, self.per_part = batch_size, batch_size // number
        wanted = range(batch_size) if wanted is None else wanted
        self.parts = sorted({row // self.per_part for row in wanted})
        self.rows = [part * self.per_part + n for part in self.parts for n in range(self.per_part)]

    def describe(self) -> str:
        """The end of a line on the data, which says that not all rows are made; "" if all are."""
        if len(self.rows) == self._batch_size:
            return ""
        return f"; this host makes {len(self.rows):,} of {self._batch_size:,} rows"

    def placed(self, values: np.ndarray) -> np.ndarray:
        """These rows, [own rows, length], in a batch [batch_size, length] of zeros."""
        if len(values) == self._batch_size:
            return values
        whole = np.zeros((self._batch_size, *values.shape[1:]), values.dtype)
        whole[self.rows] = values
        return whole


def count_tokens(
    batch: Mapping[str, np.ndarray], rows: Sequence[int] | None = None
) -> tuple[int, int]:
    """Counts the (input, target) tokens of a host batch, excluding padding.

    One minus their ratio to the sizes of the arrays is the padding share.

    Args:
      batch: feature -> int32 [batch, length].
      rows: the rows that this host makes, from which all are estimated, as the others are zeros;
        None for all.
    """
    batch_size = len(batch["encoder_input_tokens"])
    share = 1 if rows is None else len(rows) / batch_size
    return (
        round(np.count_nonzero(batch["encoder_input_tokens"]) / share),
        round(np.count_nonzero(batch["decoder_target_tokens"]) / share),
    )
