"""What a task reads and whether it is available; for the list of tasks, nothing is fetched.

Custom sources tell and do this in three methods:

    describe() -> str             what it reads, in a few words
    missing() -> str | None       which part of it is missing, in a few words; None if nothing
    prepare()                     makes or checks it before a run; raises `UserError`

For SeqIO's own sources, it is done here.
"""

import glob
import os
import re
from collections.abc import Iterable

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from switch_tf import runtime, storage
from switch_tf.data import raw_files
from switch_tf.data.stamps import files_of
from switch_tf.errors import UserError

# Sources that a message names.
_FEW = 3
# SeqIO requires a split for each task; mixtures leave out tasks that lack the split being read.
ABSENT = ("absent",)
# Its builder in TFDS reads all of Common Crawl, which takes a cluster.
_NOT_FETCHED = "c4"
_TFDS_NAME = re.compile(r"(?P<name>[^/:]+)(/(?P<config>[^:]+))?(:(?P<version>.+))?")


def describe(source: seqio.DataSource) -> str:
    """Describes what a source reads."""
    if hasattr(source, "describe"):
        return source.describe()
    if isinstance(source, seqio.TfdsDataSource):
        return ", ".join(dict.fromkeys(name for name, _ in _tfds_datasets(source)))
    if isinstance(source, seqio.FileDataSource):
        return ", ".join(dict.fromkeys(_patterns(source)))
    if isinstance(source, seqio.FunctionDataSource):
        return f"function {seqio.utils.function_name(source._dataset_fn)}"
    return type(source).__name__


def read_by(tasks: Iterable[seqio.Task], split: str) -> list[str]:
    """What a few of these tasks read of a split: their files, where they have some."""
    found = []
    for task in tasks:
        if split in task.splits:
            found += files_of(task.source, split) or [describe(task.source)]
    return found[:_FEW] + ["..."] * (len(found) > _FEW)


def state(source: seqio.DataSource) -> str:
    """Whether a source's data are available: "yes", "no: " and what is missing, or "not known"."""
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


def prepare(source: seqio.DataSource) -> None:
    """Makes, fetches or checks what a source reads, before a run starts.

    Raises:
      UserError: it is missing or malformed.
    """
    if hasattr(source, "prepare"):
        source.prepare()
    elif isinstance(source, seqio.TfdsDataSource):
        for name, folder in _tfds_datasets(source):
            fetch(name, folder)
    elif isinstance(source, seqio.FileDataSource):
        for pattern in _patterns(source):
            _check_literal(pattern)
        raw_files.check(source)
    elif isinstance(source, seqio.FunctionDataSource):
        raw_files.check_function(source)


def _check_literal(pattern: str) -> None:
    """Checks that a file's name is not taken for a pattern of others.

    Raises:
      UserError: it is.
    """
    is_pattern = any(sign in pattern for sign in "[*?")
    if is_pattern and storage.exists(pattern) and pattern not in tf.io.gfile.glob(pattern):
        raise UserError(
            f"{pattern}: this file's name is a pattern to SeqIO, which reads other files: rename "
            f"it, or write '{glob.escape(pattern)}'"
        )


def fetch(tfds_name: str, data_dir: str | None = None, otherwise: str = "") -> None:
    """Has TFDS fetch a dataset that it has not prepared, and prints so; C4 is refused.

    Args:
      tfds_name, data_dir: as for `missing_of_tfds`.
      otherwise: for errors, what else a user may do.

    Raises:
      UserError: it is not there, and cannot be fetched.
    """
    lack = missing_of_tfds(tfds_name, data_dir, remote=True)
    if lack is None:
        return
    absent = f"{tfds_name} is {lack}"
    mend = otherwise + f"prepare it where there is a network: tfds build {tfds_name}"
    if _TFDS_NAME.fullmatch(tfds_name)["name"] == _NOT_FETCHED:
        raise UserError(f"{absent}, and too large for a run to fetch it: {mend}")
    if not storage.reaches_google():
        raise UserError(f"{absent}, and there is no network to fetch it: {mend}")
    folder = data_dir or tfds.core.utils.file_utils.constants.DATA_DIR
    runtime.tell(f"{absent}: fetching it to {folder}")
    try:
        # As SeqIO does; `split=[]` reads no split of it.
        tfds.load(tfds_name, split=[], data_dir=data_dir, try_gcs=True)
    except Exception as error:
        why = f"{type(error).__name__}: {storage.first_line(error)}"
        raise UserError(f"{absent}, and cannot be fetched ({why}): {mend}") from error


def first_of(names: list[str]) -> str | None:
    """The first missing item and the number of the others."""
    if not names:
        return None
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def missing_of_tfds(
    tfds_name: str, data_dir: str | None = None, remote: bool = False
) -> str | None:
    """Reports a dataset that TFDS has not prepared; None if it has.

    Looks only for folders, because TFDS itself would query a server for missing datasets.

    Args:
      tfds_name: the name in TFDS, with or without config and version.
      data_dir: the folder to look in; None for TFDS's own folders.
      remote: whether to look in remote folders, too, which may take long.
    """
    parts = _TFDS_NAME.fullmatch(tfds_name)
    config, version = parts["config"] or "", parts["version"] or "*"
    for folder in tfds.core.utils.file_utils.list_data_dirs(data_dir):
        place = os.path.join(glob.escape(os.path.expanduser(folder)), parts["name"])
        # The default config of a dataset may be omitted from its name.
        places = [os.path.join(place, config)] if config else [place, os.path.join(place, "*")]
        for place in places:
            pattern = os.path.join(place, version, "dataset_info.json")
            if (remote or not storage.is_remote(pattern)) and tf.io.gfile.glob(pattern):
                return None
    return "not prepared by TFDS"


def _tfds_datasets(source: seqio.TfdsDataSource) -> list[tuple[str, str | None]]:
    """The name and data_dir of each dataset that a source reads."""
    loader = source.tfds_dataset
    if loader.tfds_splits:
        return [(split.dataset, split.data_dir) for split in loader.tfds_splits.values()]
    return [(loader.name, loader.data_dir)]


def _patterns(source: seqio.FileDataSource) -> list[str]:
    found = []
    for patterns in source._split_to_filepattern.values():
        found += [patterns] if isinstance(patterns, str) else list(patterns)
    return [os.fspath(pattern) for pattern in found]
