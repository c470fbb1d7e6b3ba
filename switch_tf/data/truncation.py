"""How many examples of each task TASK_FEATURE_LENGTHS truncates."""

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import seqio
import tensorflow as tf

from switch_tf.data import features
from switch_tf.data.answers import right_answers
from switch_tf.data.autograph import without_autograph
from switch_tf.data.batch_shape import FEATURE_LENGTHS, TASK_FEATURES
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError

# Examples whose lengths are counted: of a task, and of all tasks together.
_SAMPLE_OF_TASK, _SAMPLE = 1000, 10_000


class Truncation(NamedTuple):
    """The shares of a task's examples that are truncated.

    Attributes:
      examples: number of examples counted.
      inputs, targets: share of them whose inputs, or targets, are longer than a row.
    """

    examples: int
    inputs: float
    targets: float

    def figures(self) -> dict[str, float]:
        """The shares as they are logged."""
        return {"truncated_inputs": self.inputs, "truncated_targets": self.targets}


def count(data: TaskData, examples: int | None = None) -> Iterator[tuple[str, Truncation]]:
    """Yields a task, or each of a mixture, with what is truncated of its first 1,000 examples.

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
        with features.user_errors(features.described(task.name, data.split)):
            found = _count(task, data, most)
        yield task.name, found


def lines(found: Mapping[str, Truncation]) -> list[str]:
    """One line for each task that loses something."""
    return [
        f"{task}: {t.inputs:.1%} of inputs and {t.targets:.1%} of targets are truncated to "
        f"{FEATURE_LENGTHS} (of {t.examples:,} examples)"
        for task, t in found.items()
        if t.inputs or t.targets
    ]


def _count(task: seqio.Task, data: TaskData, examples: int) -> Truncation:
    lengths = data.task_feature_lengths
    dataset = without_autograph(
        lambda: untrimmed_lengths(task, data.split, lengths, data.use_cached)
    )
    total, longer = 0, dict.fromkeys(TASK_FEATURES, 0)
    for batch in dataset.take(examples).batch(examples).as_numpy_iterator():
        total += len(batch[TASK_FEATURES[0]])
        for name in TASK_FEATURES:
            longer[name] += int((batch[name] > lengths[name]).sum())
    return Truncation(total, *(longer[name] / max(total, 1) for name in TASK_FEATURES))


def untrimmed_lengths(
    task: seqio.Task, split: str, lengths: Mapping[str, int], use_cached: bool = False
) -> tf.data.Dataset:
    """The lengths of a task's examples in tokens, with the end of sequence, before trimming.

    Args:
      task: the task.
      split: the split to read, in the order of its source.
      lengths: feature -> length in tokens, to which span corruption cuts its text.
      use_cached: whether to read the cache in place of the source.

    Raises:
      UserError: the task lacks a feature.
    """
    steps = [_without_trim(step) for step in task.preprocessors]
    whole = seqio.Task(task.name, task.source, task.output_features, steps)
    source = whole._get_cached_source(split) if use_cached else task.source
    dataset = source.get_dataset(split, shuffle=False)
    if not use_cached:
        dataset = whole.preprocess_precache(dataset, seed=0)
    dataset = whole.preprocess_postcache(dataset, lengths, seed=0)
    for name in lengths:
        if name not in dataset.element_spec:
            raise UserError(f"task '{task.name}' has no feature '{name}'")
    dataset = right_answers(dataset)
    return dataset.map(lambda example: {name: tf.size(example[name]) for name in lengths})


def _without_trim(step):
    function = step
    while isinstance(function, functools.partial):
        function = function.func
    is_trim = inspect.unwrap(function) is seqio.preprocessors.append_eos_after_trim
    return seqio.preprocessors.append_eos if is_trim else step
