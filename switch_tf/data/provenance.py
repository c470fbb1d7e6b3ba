"""What a task's cache was made with, kept beside it, and how a run that reads it differs."""

from __future__ import annotations

import difflib
import importlib.metadata
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

import switch_tf
from switch_tf import config, runtime, storage
from switch_tf.data.described import described, digest
from switch_tf.data.skipping import bad_data
from switch_tf.data.stamps import files_of
from switch_tf.errors import UserError

FILE = "made_with.json"
# Those that read, cut up and write what is cached.
_PACKAGES = ("seqio", "t5", "tensorflow-text")


def facts(task: seqio.Task) -> dict[str, Any]:
    """What the cache of a task would be made with, as JSON can hold it.

    Its vocabularies by feature; files by split, each with size and time; macros of gin;
    preprocessors before the cache, with their settings; and versions.
    """
    return _settings(task) | {
        "files": {split: _stamps(task.source, split) for split in task.splits}
    }


def _settings(task: seqio.Task) -> dict[str, Any]:
    """All of `facts` but the files."""
    vocabularies = {name: f.vocabulary for name, f in task.output_features.items()}
    return {
        "vocabularies": {name: digest(each) for name, each in vocabularies.items()},
        "vocabulary_paths": {name: _path_of(each) for name, each in vocabularies.items()},
        "macros": {"DATA_DIR": config.macro("DATA_DIR", None), "BAD_DATA": bad_data()},
        "source": _source(task.source),
        "preprocessors": _steps(task),
        "versions": {"switch_tf": switch_tf.__version__}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def write(folder: str, found: Mapping[str, Any]) -> None:
    """Writes the result of `facts` into the folder of a task's cache."""
    storage.write_json(os.path.join(folder, FILE), found)


def check(provider) -> None:
    """Compares caches with the run that reads them, and prints a line for each difference.

    Args:
      provider: a `seqio.Task` or `seqio.Mixture`; those of its tasks that have a cache are checked.

    Raises:
      UserError: the tokens are of another vocabulary.
    """
    for task in seqio.get_subtasks(provider):
        if not task.supports_caching or not task.cache_dir:
            continue
        path, what = os.path.join(task.cache_dir, FILE), f"cache of '{task.name}'"
        if not storage.exists(path):
            runtime.tell(f"{what} in {task.cache_dir} does not say what it was made with")
            continue
        now = _settings(task)
        try:
            made = json.loads(storage.read_text(path))
            _check_vocabularies(task, made, now, what)
            lines = [f"{what}: {line}" for line in _differences(task, made, now)]
        # A file that is no JSON, or lacks something.
        except (ValueError, KeyError, TypeError, AttributeError, *storage.errors()) as error:
            raise UserError(
                f"{path}: cannot be read; cache the task again with --overwrite"
            ) from error
        runtime.tell(*lines)


def _check_vocabularies(task: seqio.Task, made: Mapping, now: Mapping, what: str) -> None:
    for name, feature in task.output_features.items():
        if made["vocabularies"].get(name) != now["vocabularies"][name]:
            path = made["vocabulary_paths"].get(name)
            mend = f"set VOCABULARY_PATH='{path}'" if path else "give it the same vocabulary"
            raise UserError(
                f"{what} in {task.cache_dir} was made with another vocabulary for '{name}' than "
                f"this run has, {_path_of(feature.vocabulary) or feature.vocabulary}: {mend}, or "
                "cache the task again with --overwrite"
            )


def _differences(task: seqio.Task, made: Mapping, now: Mapping) -> Iterator[str]:
    """Yields what differs between a cache and the run, as far as the run says it."""
    for name, value in now["macros"].items():
        before = made["macros"][name]
        # A run that reads a cache needs no DATA_DIR.
        if value is not None and value != before:
            yield f"made with {name}={before!r}, this run has {value!r}"
    if now["source"] != made["source"]:
        yield f"made from {made['source']}, this run has {now['source']}"
    yield from _changed_steps(made["preprocessors"], now["preprocessors"])
    for name, version in now["versions"].items():
        if version != made["versions"][name]:
            yield f"made with {name} {made['versions'][name]}, this run has {version}"
    for split, before in made["files"].items():
        yield from _changed_files(task, split, {path: stamp for path, *stamp in before})


def _changed_steps(before: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    matcher = difflib.SequenceMatcher(None, before, now, autojunk=False)
    for kind, *ends in matcher.get_opcodes():
        first, last, begin, end = ends
        for old, new in itertools.zip_longest(before[first:last], now[begin:end]):
            if kind == "equal":
                continue
            if old is None:
                yield f"made without the preprocessor {new}, which this run has"
            elif new is None:
                yield f"made with the preprocessor {old}, which this run has not"
            else:
                yield f"made with the preprocessor {old}, this run has {new}"


def _changed_files(task: seqio.Task, split: str, before: Mapping) -> Iterator[str]:
    try:
        now = {path: stamp for path, *stamp in _stamps(task.source, split)}
    except (UserError, ValueError, *storage.errors()):
        # A run that reads a cache need not have its files.
        return
    if not now:
        return
    both = now.keys() & before.keys()
    changed = {
        "changed since": [path for path in both if now[path] != before[path]],
        "not in it": now.keys() - both,
        "in it, but gone now": before.keys() - both,
    }
    for how, paths in changed.items():
        if paths:
            yield (
                f"{len(paths):,} of the files of split '{split}' are {how}, such as {min(paths)}"
            )


def _stamps(source: seqio.DataSource, split: str) -> list[list]:
    """Path, size and time of each file of a split; of other sources, nothing."""
    found = []
    for path in filter(storage.exists, files_of(source, split)):
        stat = tf.io.gfile.stat(path)
        # A folder's time changes with any file in it.
        found.append([path, *((0, 0) if stat.is_directory else (stat.length, stat.mtime_nsec))])
    return found


def _path_of(vocabulary: seqio.Vocabulary) -> str | None:
    return getattr(vocabulary, "sentencepiece_model_file", None)


def _steps(task: seqio.Task) -> list[str]:
    """The preprocessors before the cache, with what they are given."""
    found = []
    for step in task.preprocessors:
        if isinstance(step, seqio.CacheDatasetPlaceholder):
            break
        found.append(described(step))
    return found


def _source(source: seqio.DataSource) -> str:
    """What a source reads and how, without its files."""
    given: dict[str, Any] = {}
    if isinstance(source, seqio.TfdsDataSource):
        loader = source.tfds_dataset
        given = {"name": loader.name, "splits": str(loader.tfds_splits or "")}
    elif isinstance(source, seqio.FunctionDataSource):
        given = {"function": source._dataset_fn}
    elif isinstance(source, seqio.FileDataSource):
        given = {"reader": source._reader}
    return f"{type(source).__name__}({', '.join(f'{k}={described(v)}' for k, v in given.items())})"
