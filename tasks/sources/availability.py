"""What a task reads, and whether it is there now: for the list of tasks. Nothing is fetched.

A source of one's own says so itself, in two methods:

    describe() -> str             in a few words, what it reads
    missing() -> str | None       in a few words, what of it is not there; None if nothing

Of the sources that SeqIO has, it is found here.
"""

import os
import re

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from switch_tf import storage

# SeqIO wants a split of each task; a mixture leaves out a task without the split that is read.
ABSENT = ("absent",)
_TFDS_NAME = re.compile(r"(?P<name>[^/:]+)(/(?P<config>[^:]+))?(:(?P<version>.+))?")


def describe(source: seqio.DataSource) -> str:
    """What a source reads."""
    if hasattr(source, "describe"):
        return source.describe()
    if isinstance(source, seqio.TfdsDataSource):
        return ", ".join(dict.fromkeys(name for name, _ in _tfds_datasets(source)))
    if isinstance(source, seqio.FileDataSource):
        return ", ".join(dict.fromkeys(_patterns(source)))
    if isinstance(source, seqio.FunctionDataSource):
        return f"function {seqio.utils.function_name(source._dataset_fn)}"
    return type(source).__name__


def state(source: seqio.DataSource) -> str:
    """Whether the data of a source is there: "yes", "no: " and what is missing, or "not known"."""
    if not isinstance(source, _KNOWN) and not hasattr(source, "missing"):
        return "not known"
    if not hasattr(source, "missing") and isinstance(source, seqio.FileDataSource):
        remote = [pattern for pattern in _patterns(source) if storage.is_remote(pattern)]
        if remote:
            return f"not known: {remote[0]}"
    lack = _missing(source)
    return f"no: {lack}" if lack else "yes"


_KNOWN = (seqio.TfdsDataSource, seqio.FileDataSource, seqio.FunctionDataSource)


def _missing(source: seqio.DataSource) -> str | None:
    if hasattr(source, "missing"):
        return source.missing()
    if isinstance(source, seqio.TfdsDataSource):
        lacks = (missing_of_tfds(name, folder) for name, folder in _tfds_datasets(source))
        return next(filter(None, lacks), None)
    if isinstance(source, seqio.FileDataSource):
        return first_of([p for p in _patterns(source) if not tf.io.gfile.glob(p)])
    return None


def first_of(names: list[str]) -> str | None:
    """The first of what is missing, and how many more there are."""
    if not names:
        return None
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def missing_of_tfds(tfds_name: str, data_dir: str | None = None) -> str | None:
    """That TFDS has not prepared a dataset, if so.

    Looked for by the names of folders: TFDS itself would ask a server for what is not there.

    Args:
      tfds_name: with config and version, or without.
      data_dir: None: those that TFDS knows.
    """
    parts = _TFDS_NAME.fullmatch(tfds_name)
    config, version = parts["config"] or "", parts["version"] or "*"
    for folder in tfds.core.utils.file_utils.list_data_dirs(data_dir):
        place = os.path.join(folder, parts["name"])
        # A dataset's default config need not be named.
        places = [os.path.join(place, config)] if config else [place, os.path.join(place, "*")]
        for place in places:
            pattern = os.path.join(os.path.expanduser(place), version, "dataset_info.json")
            if not storage.is_remote(pattern) and tf.io.gfile.glob(pattern):
                return None
    return "not prepared by TFDS"


def _tfds_datasets(source: seqio.TfdsDataSource) -> list[tuple[str, str | None]]:
    """Name and data_dir of each dataset that a source reads."""
    loader = source.tfds_dataset
    if loader.tfds_splits:
        return [(split.dataset, split.data_dir) for split in loader.tfds_splits.values()]
    return [(loader.name, loader.data_dir)]


def _patterns(source: seqio.FileDataSource) -> list[str]:
    found = []
    for patterns in source._split_to_filepattern.values():
        found += [patterns] if isinstance(patterns, str) else list(patterns)
    return [os.fspath(pattern) for pattern in found]
