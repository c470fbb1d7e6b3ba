"""Which examples count as data: those of rank classification that are right, and those answered."""

from __future__ import annotations

import collections
import functools
import inspect
import itertools
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from switch_tf.data.reading import TaskSplit, user_errors
from switch_tf.data.records import examples_of
from switch_tf.errors import UserError
from switch_tf.storage import first_line

# Examples in which answers are looked for before a run.
_SAMPLE = 100
# What T5's preprocessors write where an example has no label.
_UNKNOWN = "<unk>"
# What others write, by how it is written.
_MARKS = {"-1": "-1", "-1.0": "-1", "unlabelled": "unlabelled", "unlabeled": "unlabelled"}
_MARKS |= {word: "none" for word in ("none", "null", "nan", "n/a", "na", "unk", "[unk]")}
_SIGNS = re.compile(r"[?_-]+")
# Marks that beside answers mean none, unless there are others of their kind.
_MARKS_ALONE = {"-1": "negative", "?": "sign", "unlabelled": "unlabelled"}
_TRAIN = "train"
# Examples of the training split in which marks are looked for.
_TRAINING_SAMPLE = 1000
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
    """Whether examples have answers; in published test files, they do not. See `Look`."""
    return Look(task, split, examples, are_all).are_there()


class Look:
    """A look through examples for answers, which may go on later.

    T5's preprocessors write "<unk>" where there is none, or a label of -1, and its postprocessors
    make of it the same as of any text that is no answer: a model that never answers would be always
    right. Others write "-1" or "?", which is an answer in some tasks: there, other answers are
    negative or signs, too, or the training split has them.

    Attributes:
      is_done: whether all examples were looked at.
      note: a line on a postprocessor for which nonsense may be right, once all was looked at.

    Args:
      task: the `seqio.Task`.
      split: the split, for errors.
      examples: preprocessed examples, as host arrays.
      are_all: whether these are all examples that figures are of.
      use_cached: whether the training split is read from its cache.
    """

    def __init__(
        self,
        task,
        split: str,
        examples: Iterable[Mapping],
        are_all: bool = False,
        use_cached: bool = False,
    ):
        self._task, self._use_cached = task, use_cached
        self._what = TaskSplit(task.name, split, use_cached)
        self._left = _by_question(examples, are_all)
        self._are_all, self.is_done = are_all, False
        self._total = self._lacking = self._empty = self._trivial = 0
        self._marks: collections.Counter[str] = collections.Counter()
        self._kinds: set[str] = set()
        self.note = ""

    def are_there(self, seconds: float = math.inf) -> bool:
        """Looks on for some seconds.

        Returns:
          False if none of the examples so far has an answer.

        Raises:
          UserError: only some lack an answer; or, of all examples, nonsense would count as right
            for each, by a postprocessor of the user's own.
        """
        until = time.monotonic() + seconds
        for example in self._left:
            self._add(example)
            if time.monotonic() > until:
                break
        else:
            self.is_done = True
        return self._are_there()

    def _add(self, example: Mapping) -> None:
        texts, is_trivial = _texts(example), _is_trivial(self._task, example)
        self._total += 1
        self._empty += bool(texts) and not any(map(str.strip, texts))
        self._trivial += is_trivial
        if _lacks_answer(self._task, example, is_trivial):
            self._lacking += 1
        elif mark := _mark(example, texts):
            self._marks[mark] += 1
        else:
            self._kinds |= set(map(_kind, texts))

    def _are_there(self) -> bool:
        total, is_whole = self._total, self._are_all and self.is_done
        lacking = self._lacking + (sum(self._marks.values()) if is_whole else 0)
        if total and total in (lacking, self._empty):
            return False
        if is_whole and total and total == self._trivial:
            raise UserError(
                f"{self._what}: a text that is no answer would count as right for every example, "
                "so metrics would mean nothing: give the examples answers, or see the task's "
                "postprocess_fn"
            )
        lacking = self._lacking + (self._of_marks() if is_whole else 0)
        if lacking:
            raise UserError(
                f"{self._what}: {lacking:,} of {total:,} examples have no answer "
                "(a label of -1, for example): remove these, or give them answers"
            )
        if is_whole and self._trivial:
            self.note = (
                f"{self._what}: a text that is no answer counts as right for {self._trivial:,} of "
                f"{total:,} examples: see the task's postprocess_fn"
            )
        return True

    def _of_marks(self) -> int:
        """How many examples have a mark that is no answer in this task."""
        unlike = {mark: n for mark, n in self._marks.items() if mark in _MARKS_ALONE}
        found = {mark: n for mark, n in unlike.items() if _MARKS_ALONE[mark] not in self._kinds}
        if found and self._what.split != _TRAIN and _TRAIN in self._task.splits:
            dataset = examples_of(self._task, _TRAIN, None, self._use_cached)
            for example in dataset.take(_TRAINING_SAMPLE).as_numpy_iterator():
                found.pop(_mark(example, _texts(example)), None)
        return sum(found.values())


def _by_question(examples: Iterable[Mapping], are_all: bool) -> Iterator[Mapping]:
    """Yields examples, of a rank classification one a question, which is right if one answer is.

    Args:
      examples: the examples.
      are_all: whether the last question has all its answers.
    """
    numbers = itertools.count()

    def question(example):
        place = np.ravel(example.get("idx", ()))
        is_ranked = "is_correct" in example and len(place) > 1
        return tuple(place[:-1].tolist()) if is_ranked else ("", next(numbers))

    waiting = None
    for _, answers in itertools.groupby(examples, question):
        if waiting is not None:
            yield waiting
        found = list(answers)
        right = [answer for answer in found if np.any(answer.get("is_correct", True))]
        waiting = None if right else found[-1]
        if right:
            yield right[0]
    if waiting is not None and are_all:
        yield waiting


def unlabelled(tasks: Iterable, data) -> list[str]:
    """Names of the tasks whose first examples have no answers; see `Look`.

    Args:
      tasks: `seqio.Task`s that have the split.
      data: the `TaskData` that is read.

    Raises:
      UserError: only some of the examples lack an answer.
    """
    found = []
    for task, look in looks(tasks, data, _SAMPLE, are_all=False).items():
        with user_errors(TaskSplit.of(data, task)):
            if not look.are_there():
                found.append(task)
    return found


def metrics_of(task) -> list:
    """The metrics of a `seqio.Task`.

    Raises:
      UserError: SeqIO cannot tell what one of its functions wants, by the names of its arguments.
    """
    try:
        return task.metric_objs
    except ValueError as error:
        # `metric_fns` looks at their arguments, too.
        places = map(_place, task._metric_fn_constructor_args)
        raise UserError(
            f"metric_fns of task '{task.name}' ({', '.join(places)}): {first_line(error)}"
        ) from error


def _place(function: Callable) -> str:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", repr(function))
    return f"{name}, {os.path.relpath(code.co_filename)}:{code.co_firstlineno}" if code else name


def looks(tasks: Iterable, data, most: int | None, are_all: bool = True) -> dict[str, Look]:
    """Task -> a `Look` through its examples, of tasks that have answers to look for.

    Of tasks without metrics only the first examples are looked at, and of those that make targets
    of a text, such as span corruption, none.

    Args:
      tasks: `seqio.Task`s that have the split.
      data: the `TaskData` that is read.
      most: how many examples are looked at; None for all.
      are_all: whether these are all examples that figures are of.
    """
    found = {}
    for task in tasks:
        with user_errors(TaskSplit.of(data, task.name)):
            dataset = examples_of(task, data.split, data.task_feature_lengths, data.use_cached)
        has_metrics = bool(metrics_of(task))
        if not has_metrics and "targets_pretokenized" not in dataset.element_spec:
            continue
        number = most if has_metrics else _SAMPLE
        dataset = dataset if number is None else dataset.take(number)
        examples = _read(dataset)
        whole = are_all and has_metrics
        found[task.name] = Look(task, data.split, examples, whole, data.use_cached)
    return found


def _read(dataset) -> Iterator[Mapping]:
    """The examples; nothing is read before the first is asked for."""
    yield from dataset.as_numpy_iterator()


def _lacks_answer(task, example: Mapping, is_trivial: bool) -> bool:
    """Whether an example surely has no answer."""
    if not np.any(example.get("is_correct", True)):
        return True
    name = _t5_name(task.postprocessor)
    if name == _WSC:
        return int(np.ravel(example.get("label", 0))[0]) == -1
    if name in _OF_ANSWERS and "answers" in example:
        return np.size(example["answers"]) == 0
    texts = _texts(example)
    if texts and all(text == _UNKNOWN for text in texts):
        return True
    # Of a user's own function, which may count any text as that of one class.
    is_none = is_trivial and name is None and _is_none(_target(task, example, texts))
    return is_none or is_trivial and name in _OF_CLASSES


def _is_none(value: Any) -> bool:
    """Whether a postprocessor's value stands for none."""
    if value is None:
        return True
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return is_number and bool(value == -1 or np.isnan(value))


def _mark(example: Mapping, texts: list[str]) -> str | None:
    """What an example has in place of an answer, if it looks like that."""
    label = example.get("label")
    if np.ndim(label) == 0 and isinstance(label, np.integer | np.floating) and label == -1:
        return "-1"
    marks = {_mark_of(text.strip().lower()) for text in texts}
    return marks.pop() if len(marks) == 1 else None


def _mark_of(text: str) -> str | None:
    return "?" if _SIGNS.fullmatch(text) else _MARKS.get(text)


def _kind(text: str) -> str:
    """What kind of answer a text is, as far as it tells whether a mark is one."""
    try:
        return "negative" if float(text) < 0 else ""
    except ValueError:
        return "" if any(map(str.isalnum, text)) else "sign"


def _is_trivial(task, example: Mapping) -> bool:
    """Whether nonsense counts as the right answer to an example."""
    texts = _texts(example)
    if task.postprocessor is None or _t5_name(task.postprocessor) == _WSC or not texts:
        return False
    try:
        target = _target(task, example, texts)
        found = _value(task.postprocess_fn(_NONSENSE, example=example, is_target=False))
        return _is_none(found) and _is_none(target) or bool(np.all(found == target))
    except Exception:
        # A function of a score, or a user's whose error the evaluation will tell.
        return False


def _target(task, example: Mapping, texts: list[str]) -> Any:
    return _value(task.postprocess_fn(texts[0], example=example, is_target=True))


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
