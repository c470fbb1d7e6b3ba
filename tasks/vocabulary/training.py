"""Trains the vocabulary at VOCABULARY_PATH on the text of a task or mixture."""

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from switch_tf import config, rules, storage
from switch_tf.data import availability, records, skipping
from switch_tf.data.reading import TaskSplit, user_errors
from switch_tf.errors import UserError
from switch_tf.tasks.vocabulary import t5, vocabulary_path

SPLIT = "train"
# Maximum number of a task's files to read, because opening one may take a tenth of a second.
MAX_FILES = 250
_TOKENIZERS = (seqio.preprocessors.tokenize, seqio.preprocessors.tokenize_and_append_eos)


def train(
    provider: seqio.Task | seqio.Mixture, size: int, **settings: Any
) -> tuple[Path, t5.Lacking]:
    """Trains a vocabulary of `size` pieces, and writes it to VOCABULARY_PATH.

    Args:
      provider: the task or mixture whose train split is read.
      size: number of pieces, without sentinels; see `t5.train`.
      **settings: others of `t5.train`.

    Returns:
      The path, and the characters of the text without a piece.

    Raises:
      UserError: no path is set, the path is not writable or already exists; the data cannot be read
        or contain too little text; a task does not use VOCABULARY_PATH or has no tokenising step;
        or `size` is below 1.
    """
    if size < 1:
        raise UserError(f"a vocabulary cannot have {size} pieces: give a number, such as 8000")
    path = config.macro("VOCABULARY_PATH", None, annotation=rules.Path)
    vocabulary_path.check_new(path)
    path = storage.local_path(vocabulary_path.SETTING, path)
    tasks = [task for task in seqio.get_subtasks(provider) if SPLIT in task.splits]
    if not tasks:
        raise UserError(f"'{provider.name}' has no split '{SPLIT}' to train a vocabulary on")
    for task in tasks:
        _check(task)
        _prepare(task)
    try:
        lacking = t5.train(_sample([_to_text(task) for task in tasks]), path, size, **settings)
    except OSError as error:
        raise UserError(
            f"VOCABULARY_PATH='{path}' cannot be written: {error.strerror or error}"
        ) from error
    return path, lacking


def _check(task: seqio.Task) -> None:
    for name, feature in task.output_features.items():
        if not isinstance(feature.vocabulary, t5.LazyVocabulary):
            kind = type(feature.vocabulary).__name__
            raise UserError(
                f"task '{task.name}' has its own vocabulary for '{name}', a {kind}, so none can be "
                "trained for it; give it the features "
                "switch_tf.tasks.vocabulary.t5.T5_OUTPUT_FEATURES"
            )
    _steps_before_tokenize(task)


def _prepare(task: seqio.Task) -> None:
    source = task.source
    availability.prepare(source)
    if not hasattr(source, "prepare") and isinstance(source, seqio.FileDataSource):
        files = source.list_shards(SPLIT)
        if not files or not tf.io.gfile.exists(files[0]):
            what = availability.describe(source)
            raise UserError(f"no file for the split '{SPLIT}' of task '{task.name}': {what}")


def _steps_before_tokenize(task: seqio.Task) -> list[Callable]:
    found = []
    for step in task.preprocessors:
        if _unwrapped(step) in _TOKENIZERS:
            return [s for s in found if not isinstance(s, seqio.CacheDatasetPlaceholder)]
        found.append(step)
    raise UserError(
        f"task '{task.name}' has no seqio.preprocessors.tokenize among its preprocessors, so the "
        "text to train a vocabulary on is unknown"
    )


def _unwrapped(step: Callable) -> Callable:
    while isinstance(step, functools.partial):
        step = step.func
    return inspect.unwrap(step)


def _sample(tasks: list[seqio.Task]) -> Iterator[str]:
    """Yields texts from the start of each file of each task, equally many characters of each.

    Args:
      tasks: what `_to_text` makes of tasks.

    Raises:
      UserError: a record is refused, or cannot be read; its place is named.
    """
    for task in tasks:
        with user_errors(_Texts(task)):
            parts = _parts(task.source)
            share = t5.TRAINING_CHARACTERS // (len(tasks) * len(parts)) + 1
            for part in parts:
                raw = task.source.get_dataset(SPLIT, shuffle=False, shard_info=part)
                yield from _cut(_texts(task.preprocess_precache(raw, seed=0), task), share)


def _to_text(task: seqio.Task) -> seqio.Task:
    """A task of the steps that make text, which leaves out what they refuse if BAD_DATA says so."""
    # SeqIO runs the steps before the placeholder, with the task's features and seeds.
    made = seqio.Task(
        task.name,
        source=getattr(task.source, records.BARE, task.source),
        output_features=task.output_features,
        preprocessors=[*_steps_before_tokenize(task), seqio.CacheDatasetPlaceholder()],
    )
    skipping.install(made)
    return made


class _Texts(TaskSplit):
    """A task of `_to_text`, which is not the one that is registered under its name."""

    def __new__(cls, task: seqio.Task):
        made = super().__new__(cls, task.name, SPLIT)
        made._task = task
        return made

    def tasks(self) -> list[seqio.Task]:
        """The task."""
        return [self._task]


def _parts(source: seqio.DataSource) -> list[seqio.ShardInfo | None]:
    """The files of a local source, evenly sampled if there are many; else [None] for all of it."""
    if not isinstance(source, seqio.FileDataSource):
        return [None]
    files = source.list_shards(SPLIT)
    if storage.is_remote(files[0]):
        # Files would be listed again for every part, which takes long in a cloud.
        return [None]
    step = -(-len(files) // MAX_FILES)
    return [seqio.ShardInfo(index, len(files)) for index in range(0, len(files), step)]


def _texts(dataset: tf.data.Dataset, task: seqio.Task) -> Iterator[str]:
    spec = dataset.element_spec
    names = [n for n in task.output_features if n in spec and spec[n].dtype == tf.string]
    texts = dataset.map(lambda example: [tf.reshape(example[name], [-1]) for name in names])
    for example in texts.as_numpy_iterator():
        for values in example:
            # Inputs are empty at this point if span corruption makes them from the text.
            yield from (value.decode("utf-8", "replace") for value in values.tolist() if value)


def _cut(texts: Iterator[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            break
