"""What a model does not see of a task: what is truncated, and what its vocabulary lacks."""

import collections
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from switch_tf.data import features, task_cache
from switch_tf.data.answers import right_answers
from switch_tf.data.autograph import without_autograph
from switch_tf.data.batch_shape import FEATURE_LENGTHS, LOST_SHARES, TASK_FEATURES
from switch_tf.data.reading import TaskSplit, user_errors
from switch_tf.data.spans import num_sentinels
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError

# Examples whose lengths are counted: of a task, and of all tasks together.
_SAMPLE_OF_TASK, _SAMPLE = 1000, 10_000
# Keys in `untrimmed_lengths`.
BEYOND, ENDLESS, EMPTY = "beyond_sentinels", "endless", "empty"
# Characters that a message names.
_FEW = 3


class Lost(NamedTuple):
    """The shares of a task's examples that a model does not see.

    Attributes:
      examples: number of examples counted.
      truncated_inputs, truncated_targets: share of them whose inputs, or targets, are longer than a
        row.
      unknown_inputs, unknown_targets: share of the tokens, before truncation, that are the
        vocabulary's unknown token: text that the vocabulary lacks pieces for.
      lacking: the characters that most often become it, where the texts are kept.
      endless: share of the examples whose targets lack the end of sequence that they should have.
      empty: share of the examples whose targets are nothing else.
    """

    examples: int
    truncated_inputs: float = 0.0
    truncated_targets: float = 0.0
    unknown_inputs: float = 0.0
    unknown_targets: float = 0.0
    lacking: tuple[str, ...] = ()
    endless: float = 0.0
    empty: float = 0.0

    def figures(self) -> dict[str, float]:
        """The shares as they are logged."""
        return {name: getattr(self, name) for name in LOST_SHARES}


def count(data: TaskData, examples: int | None = None) -> Iterator[tuple[str, Lost]]:
    """Yields a task, or each of a mixture, with what is lost of its first 1,000 examples.

    Of more than ten tasks, fewer examples are read. They are read from the beginning, independently
    of what a run reads, so that batches stay the same. In rank classification only the right
    answers count.

    Args:
      data: prepared data; of a mixture, tasks that have the split.
      examples: maximum number of examples per task, if fewer than these are wanted.

    Raises:
      UserError: the reader reports an error in the user's files.
    """
    tasks = features.tasks(data)
    most = max(min(_SAMPLE_OF_TASK, _SAMPLE // len(tasks)), 1)
    most = min(most, examples or most)
    for task in tasks:
        with user_errors(TaskSplit.of(data, task.name)):
            found = _count(task, data, most)
        yield task.name, found


def lines(found: Mapping[str, Lost]) -> Iterator[str]:
    """One line for each task and way in which it loses something."""
    for task, lost in found.items():
        of = f"(of {lost.examples:,} examples)"
        if lost.truncated_inputs or lost.truncated_targets:
            yield (
                f"{task}: {lost.truncated_inputs:.1%} of inputs and {lost.truncated_targets:.1%} "
                f"of targets are truncated to {FEATURE_LENGTHS} {of}"
            )
        if lost.unknown_inputs or lost.unknown_targets:
            shares = lost.unknown_inputs, lost.unknown_targets
            inputs, targets = (f"{100 * share:.2g}%" for share in shares)
            such = f", such as {' '.join(map(repr, lost.lacking))}" if lost.lacking else ""
            yield (
                f"{task}: the vocabulary lacks {inputs} of the tokens of inputs and {targets} of "
                f"targets{such}, which become its unknown token {of}"
            )
        if lost.endless:
            yield (
                f"{task}: {lost.endless:.1%} of targets lack the end of sequence, so that a model "
                f"does not learn where to stop: add seqio.preprocessors.append_eos_after_trim {of}"
            )
        if lost.empty:
            yield f"{task}: {lost.empty:.1%} of targets are empty {of}"


def _count(task: seqio.Task, data: TaskData, examples: int) -> Lost:
    lengths = data.task_feature_lengths
    dataset = without_autograph(
        lambda: untrimmed_lengths(task, data.split, lengths, data.use_cached, with_texts=True)
    )
    total = 0
    tokens, longer, unknown = (dict.fromkeys(TASK_FEATURES, 0) for _ in range(3))
    lacking, endless, empty = collections.Counter(), 0, 0
    for batch in dataset.take(examples).batch(examples).as_numpy_iterator():
        total += len(batch[TASK_FEATURES[0]])
        endless += int(batch[ENDLESS].sum())
        empty += int(batch[EMPTY].sum())
        check_sentinels(task.name, batch[BEYOND])
        for name in TASK_FEATURES:
            tokens[name] += int(batch[name].sum())
            longer[name] += int((batch[name] > lengths[name]).sum())
            unknown[name] += int(batch[unknown_of(name)].sum())
            texts = batch.get(_text_of(name), ())
            lacking.update(_unknown_characters(texts, task.output_features[name].vocabulary))
    truncated = (longer[name] / max(total, 1) for name in TASK_FEATURES)
    shares = (unknown[name] / max(tokens[name], 1) for name in TASK_FEATURES)
    few = tuple(character for character, _ in lacking.most_common(_FEW))
    return Lost(total, *truncated, *shares, few, endless / max(total, 1), empty / max(total, 1))


def _unknown_characters(
    texts: Iterable[bytes], vocabulary: seqio.Vocabulary
) -> collections.Counter[str]:
    """The characters in texts that have no piece, with how often each is there."""
    found = collections.Counter(b"".join(texts).decode("utf-8", "replace"))
    for character in list(found):
        if vocabulary.unk_id not in vocabulary.encode(character):
            del found[character]
    return found


def _is_endless(targets: tf.Tensor, feature: seqio.Feature) -> tf.Tensor:
    """Whether targets, of which SeqIO would say that they are to have one, have no end."""
    end = feature.vocabulary.eos_id
    if not feature.add_eos or end is None:
        return tf.constant(False)
    return tf.reduce_all(tf.cast(targets, tf.int64) != end)


def _is_empty(targets: tf.Tensor, feature: seqio.Feature) -> tf.Tensor:
    end = feature.vocabulary.eos_id
    tokens = tf.cast(targets, tf.int64)
    return tf.reduce_all(tokens == (0 if end is None else end))


def is_beyond_sentinels(example: Mapping, features: Mapping[str, seqio.Feature]) -> tf.Tensor:
    """Whether all sentinels of an example are used up, and ordinary pieces stand for more.

    T5's functions number the spans of any length downwards from the last id of the vocabulary: see
    `spans`. Whoever composes them is not seen by the lengths. It is so if inputs and targets have
    all sentinels in their order, and behind them the piece that comes next.

    Args:
      example: feature -> tokens, int [length].
      features: the task's.

    Returns:
      bool scalar.
    """
    found = []
    for name in TASK_FEATURES:
        vocabulary = features[name].vocabulary
        sentinels = num_sentinels(vocabulary)
        if not sentinels:
            return tf.constant(False)
        last = vocabulary.vocab_size - 1
        ids_S = tf.range(last, last - sentinels, -1, tf.int64)
        tokens_L = tf.cast(example[name], tf.int64)
        is_there_SL = ids_S[:, None] == tokens_L
        first_S = tf.argmax(tf.cast(is_there_SL, tf.int32), axis=1)
        is_whole = tf.reduce_all(tf.reduce_any(is_there_SL, axis=1))
        is_ordered = tf.reduce_all(first_S[1:] > first_S[:-1])
        is_next = tf.reduce_any(tokens_L[first_S[-1] + 1 :] == last - sentinels)
        found.append(is_whole & is_ordered & is_next)
    return tf.reduce_all(found)


def check_sentinels(name: str, beyond: Iterable[bool]) -> None:
    """Checks that a task's examples have sentinels for all their spans.

    Args:
      name: the task's.
      beyond: of each example, the result of `is_beyond_sentinels`.

    Raises:
      UserError: one has not.
    """
    if np.any(beyond):
        raise UserError(
            f"task '{name}': an example has more masked spans than its vocabulary has sentinels, "
            f"and ordinary pieces are used for the rest: lower {FEATURE_LENGTHS}['inputs'], mask "
            "less or in longer spans, or use a vocabulary with more sentinels"
        )


def unknown_of(feature: str) -> str:
    """The key of a feature's unknown tokens in `untrimmed_lengths`."""
    return f"unknown_{feature}"


def _text_of(feature: str) -> str:
    """The key of a feature's text in `untrimmed_lengths`."""
    return f"text_{feature}"


def untrimmed_lengths(
    task: seqio.Task,
    split: str,
    lengths: Mapping[str, int],
    use_cached: bool = False,
    with_texts: bool = False,
) -> tf.data.Dataset:
    """The lengths of a task's examples in tokens, with the end of sequence, before trimming.

    Args:
      task: the task.
      split: the split to read, in the order of its source.
      lengths: feature -> length in tokens, to which span corruption cuts its text.
      use_cached: whether to read the cache in place of the source.
      with_texts: whether texts that have unknown tokens are wanted, too.

    Returns:
      A dataset of feature -> its number of tokens, and `unknown_of` the feature -> how many of them
      are the vocabulary's unknown token. If they are wanted and SeqIO keeps texts, `_text_of` the
      feature -> the text if it has such tokens, else an empty one. Also `BEYOND` -> see
      `is_beyond_sentinels`, and `ENDLESS`, `EMPTY` -> whether the targets lack an end
      of sequence, or are nothing else.

    Raises:
      UserError: see `check_features`.
    """
    steps = [_without_trim(step) for step in task.preprocessors]
    whole = seqio.Task(task.name, task.source, task.output_features, steps)
    source = task_cache.checked_source(whole, split) if use_cached else task.source
    dataset = source.get_dataset(split, shuffle=False)
    if not use_cached:
        dataset = whole.preprocess_precache(dataset, seed=0)
    dataset = whole.preprocess_postcache(dataset, lengths, seed=0)
    check_features(task.name, lengths, dataset.element_spec)
    unknown = {name: task.output_features[name].vocabulary.unk_id for name in lengths}

    def count(example):
        sizes = {name: tf.size(example[name]) for name in lengths}
        numbers = {
            name: tf.math.count_nonzero(example[name] == token, dtype=tf.int32)
            for name, token in unknown.items()
        }
        texts = {
            _text_of(name): tf.where(number > 0, example[f"{name}_pretokenized"], "")
            for name, number in numbers.items()
            if with_texts and spec.get(f"{name}_pretokenized") == tf.TensorSpec([], tf.string)
        }
        others = {
            BEYOND: is_beyond_sentinels(example, task.output_features),
            ENDLESS: _is_endless(example["targets"], task.output_features["targets"]),
            EMPTY: _is_empty(example["targets"], task.output_features["targets"]),
        }
        return sizes | {unknown_of(name): n for name, n in numbers.items()} | texts | others

    dataset = right_answers(dataset)
    spec = dataset.element_spec
    return dataset.map(count)


def check_features(name: str, wanted: Iterable[str], given: Iterable[str]) -> None:
    """Checks that a task's preprocessors give its features.

    Args:
      name: the task's.
      wanted: the features.
      given: what the preprocessors give.

    Raises:
      UserError: one is missing.
    """
    for feature in wanted:
        if feature not in given:
            raise UserError(
                f"the preprocessors of '{name}' give no '{feature}'; they give "
                + ", ".join(sorted(given))
            )


def _without_trim(step):
    function = step
    while isinstance(function, functools.partial):
        function = function.func
    is_trim = inspect.unwrap(function) is seqio.preprocessors.append_eos_after_trim
    return seqio.preprocessors.append_eos if is_trim else step
