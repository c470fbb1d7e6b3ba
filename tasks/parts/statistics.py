"""Token lengths of a task or mixture: what is truncated, unknown, padding, or saved by packing."""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from switch_tf.data.lost import (
    BEYOND,
    EMPTY,
    ENDLESS,
    check_sentinels,
    unknown_of,
    untrimmed_lengths,
)
from switch_tf.errors import UserError

Row = tuple[str, ...]


def untrimmed(
    provider: seqio.Task | seqio.Mixture, split: str, lengths: Mapping[str, int], count: int
) -> dict[str, np.ndarray]:
    """Lengths of the first examples in tokens, with the end of sequence, before trimming.

    A mixture's tasks are sampled at its rates, without repetition. In rank classification, only the
    right answers count, since the others are not trained on.

    Args:
      provider: the task or mixture.
      split: the split to read.
      lengths: feature -> length in tokens, to which span corruption cuts its text.
      count: maximum number of examples. A few thousand give stable shares; more take longer.

    Returns:
      Feature -> lengths, int64 [examples], and `lost.unknown_of` the feature -> how many of these
      tokens are unknown to the vocabulary.

    Raises:
      UserError: there is no example, or a task lacks a feature.
    """
    tasks = [task for task in seqio.get_subtasks(provider) if split in task.splits]
    parts = [untrimmed_lengths(task, split, lengths).take(count) for task in tasks]
    if isinstance(provider, seqio.Mixture):
        rates = [float(provider.get_rate(task)) for task in tasks]
        # Equal rates if all are 0, such as in a split that no task is trained on.
        rates = rates if any(rates) else [1.0] * len(rates)
        weights = [rate / sum(rates) for rate in rates]
        dataset = tf.data.Dataset.sample_from_datasets(parts, weights, seed=0).take(count)
    else:
        (dataset,) = parts
    found = list(dataset.as_numpy_iterator())
    if not found:
        raise UserError(f"'{provider.name}', split '{split}', has no examples")
    check_sentinels(provider.name, [example[BEYOND] for example in found])
    keys = [key for key in found[0] if key not in (BEYOND, ENDLESS, EMPTY)]
    return {key: np.array([example[key] for example in found], np.int64) for key in keys}


def length_rows(found: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> list[Row]:
    """A table of the lengths of the examples: a heading and a row per feature."""
    heading = ("feature", "length", "min", "mean", "p50", "p95", "max", "truncated", "unknown")
    rows: list[Row] = [heading]
    for name in lengths:
        counts = found[name]
        middle, high = np.percentile(counts, [50, 95], method="inverted_cdf")
        figures = (lengths[name], counts.min(), f"{counts.mean():.1f}", middle, high, counts.max())
        truncated = np.mean(counts > lengths[name])
        unknown = found[unknown_of(name)].sum() / max(counts.sum(), 1)
        rows.append((name, *map(str, figures), f"{truncated:.1%}", f"{100 * unknown:.2g}%"))
    return rows


def padding_rows(found: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> list[Row]:
    """A table of the batch rows that the trimmed examples fill, unpacked and packed."""
    trimmed = {name: np.minimum(found[name], length) for name, length in lengths.items()}
    rows = len(next(iter(trimmed.values())))
    tokens = sum(int(counts.sum()) for counts in trimmed.values())
    packed = _packed_rows(trimmed, lengths)
    size = sum(lengths.values())
    return [
        ("", "rows", "padding"),
        ("unpacked", str(rows), f"{1 - tokens / (rows * size):.1%}"),
        ("packed", str(packed), f"{1 - tokens / (packed * size):.1%}"),
    ]


def _packed_rows(trimmed: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> int:
    """Number of rows into which SeqIO packs examples of these lengths."""

    def ones(counts):
        return {name: tf.ones([counts[name]], tf.int32) for name in trimmed}

    dataset = tf.data.Dataset.from_tensor_slices(dict(trimmed)).map(ones)
    converter = seqio.EncDecFeatureConverter(pack=True)
    return sum(1 for _ in converter(dataset, task_feature_lengths=dict(lengths)))
