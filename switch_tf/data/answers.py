"""Which examples count as data: those of rank classification that are right, and those answered."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from switch_tf.data.reading import TaskSplit, user_errors
from switch_tf.data.records import examples_of
from switch_tf.errors import UserError

# Examples in which answers are looked for before a run.
_SAMPLE = 100
# What T5's preprocessors write where an example has no label.
_UNKNOWN = "<unk>"
# A text that no model can mean as an answer.
_NONSENSE = "\0"
_T5 = "t5.data.postprocessors"
# T5's functions that give a text that is no answer a value of its own, and those of answers.
_OF_CLASSES = ("string_label_to_class_id", "multirc", "string_to_float")
_OF_ANSWERS = ("qa", "span_qa")
# This one compares with the label whether a text names the referent: nonsense may be right.
_WSC = "wsc_simple"


def right_answers(dataset):
    """Drops the wrong answers of T5's rank classification; other datasets are unchanged.

    Wrong answers exist only to be ranked: a model is neither trained to give them nor evaluated by
    their likelihood.

    Args:
      dataset: a dataset of examples, which in rank classification have a feature `is_correct`.
    """
    import tensorflow as tf

    if "is_correct" not in dataset.element_spec:
        return dataset
    return dataset.filter(lambda example: tf.cast(example["is_correct"], tf.bool))


def are_there(task, split: str, examples: Iterable[Mapping], are_all: bool = False) -> bool:
    """Whether examples have answers; in published test files, they do not.

    T5's preprocessors write "<unk>" for them, or a label of -1, and its postprocessors make of it
    the same as of any text that is no answer: a model that never answers would be always right.

    Args:
      task: the `seqio.Task`.
      split: the split, for errors.
      examples: preprocessed examples, as host arrays.
      are_all: whether these are all examples that figures are of.

    Returns:
      False if none of the examples has an answer.

    Raises:
      UserError: only some lack an answer; or, of all examples, nonsense would count as right for
        each, by a postprocessor of the user's own.
    """
    total, lacking, empty, trivial = 0, 0, 0, 0
    for example in examples:
        total += 1
        lacking += _lacks_answer(task, example)
        texts = _texts(example)
        empty += bool(texts) and not any(texts)
        trivial += are_all and _is_trivial(task, example)
    what = TaskSplit(task.name, split)
    if total and total in (lacking, empty):
        return False
    if total and total == trivial:
        raise UserError(
            f"{what}: a text that is no answer would count as right for every example, so metrics "
            "would mean nothing: give the examples answers, or see the task's postprocess_fn"
        )
    if lacking:
        raise UserError(
            f"{what}: {lacking:,} of {total:,} examples have no answer "
            "(a label of -1, for example): remove these, or give them answers"
        )
    return True


def unlabelled(tasks: Iterable, data) -> list[str]:
    """Names of the tasks whose first examples have no answers; see `are_there`.

    Tasks without metrics, such as span corruption, are not looked at.

    Args:
      tasks: `seqio.Task`s that have the split.
      data: the `TaskData` that is read.

    Raises:
      UserError: only some of the examples lack an answer.
    """
    found = []
    for task in tasks:
        if not task.metric_objs:
            continue
        with user_errors(TaskSplit.of(data, task.name)):
            dataset = examples_of(task, data.split, data.task_feature_lengths, data.use_cached)
            sample = list(dataset.take(_SAMPLE).as_numpy_iterator())
        if not are_there(task, data.split, sample):
            found.append(task.name)
    return found


def _lacks_answer(task, example: Mapping) -> bool:
    """Whether an example has no answer, as T5's preprocessors and functions mark it."""
    name = _t5_name(task.postprocessor)
    if name == _WSC:
        return int(np.ravel(example.get("label", 0))[0]) == -1
    if name in _OF_ANSWERS and "answers" in example:
        return np.size(example["answers"]) == 0
    texts = _texts(example)
    is_unknown = bool(texts) and all(text == _UNKNOWN for text in texts)
    return is_unknown or name in _OF_CLASSES and _is_trivial(task, example)


def _is_trivial(task, example: Mapping) -> bool:
    """Whether nonsense counts as the right answer to an example."""
    texts = _texts(example)
    if task.postprocessor is None or _t5_name(task.postprocessor) == _WSC or not texts:
        return False
    function = functools.partial(task.postprocess_fn, example=example)
    try:
        target = _value(function(texts[0], is_target=True))
        return bool(np.all(_value(function(_NONSENSE, is_target=False)) == target))
    except Exception:
        # A function of a score, or a user's whose error the evaluation will tell.
        return False


def _value(processed: Any) -> Any:
    """What T5's metrics compare, of functions that also give groups."""
    return processed["value"] if isinstance(processed, dict) and "value" in processed else processed


def _texts(example: Mapping) -> list[str]:
    found = np.ravel(example.get("targets_pretokenized", ()))
    return [text.decode("utf-8", "replace") for text in found.tolist() if isinstance(text, bytes)]


def _t5_name(function: Callable | None) -> str | None:
    """The name of a function of T5's postprocessors; None for others."""
    while isinstance(function, functools.partial):
        function = function.func
    own = getattr(sys.modules.get(_T5), getattr(function, "__name__", ""), None)
    return function.__name__ if own is not None and inspect.unwrap(function) is own else None
