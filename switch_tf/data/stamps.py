"""The files that a run reads, so that one that resumes knows whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from switch_tf import storage

# Of local files up to this many bytes together, the content counts.
_READ_BYTES = 1 << 26
# Of more remote files than these, the names alone count: each size may take a tenth of a second.
_REMOTE_FILES = 20


def files_of(source, split: str) -> list[str]:
    """The files that a source would read of a split; none of a source that does not tell them."""
    import seqio

    if hasattr(source, "paths"):
        paths = source.paths(split)
    elif isinstance(source, seqio.FileDataSource):
        paths = source.list_shards(split)
    else:
        paths = []
    return [str(path) for path in paths]


def stamps(tasks: Iterable, split: str) -> dict[str, list]:
    """File -> its size, and a digest of its content; None of what would take long to find out.

    The times of files are left out: who copies a file to another machine has another time.

    Args:
      tasks: `seqio.Task`s.
      split: the split that is read; tasks without it are passed over.
    """
    import tensorflow as tf

    every = [path for t in tasks if split in t.splits for path in files_of(t.source, split)]
    every = list(dict.fromkeys(every))
    remote = set(filter(storage.is_remote, every))
    there = [path for path in every if path in remote or storage.is_file(path)]
    if len(remote) > _REMOTE_FILES:
        there = [path for path in there if path not in remote]
    sizes = {path: tf.io.gfile.stat(path).length for path in there if storage.is_file(path)}
    is_read = sum(sizes.values()) <= _READ_BYTES
    found: dict[str, list] = {path: [None, None] for path in every if path in remote}
    for path, size in sizes.items():
        found[path] = [size, _digest(path) if is_read and path not in remote else None]
    return {path: found[path] for path in every if path in found}


def _digest(path: str) -> str:
    with storage.opened(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


def changes(before: Mapping[str, list], now: Mapping[str, list]) -> Iterator[str]:
    """Yields what differs between two results of `stamps`, in words.

    Files in other places, as on another machine, are compared in their order if there are as many.
    """
    if before.keys() != now.keys() and len(before) == len(now):
        before = dict(zip(now, before.values(), strict=True))
    for path, (size, content) in now.items():
        if path not in before:
            yield f"{path} is new"
        elif None not in (size, before[path][0]) and before[path][0] != size:
            yield f"{path} has {size:,} bytes instead of {before[path][0]:,}"
        elif content and before[path][1] and content != before[path][1]:
            yield f"{path} has other content of the same size"
    for path in before.keys() - now.keys():
        yield f"{path} is gone"


def first_change(before: Mapping[str, list], now: Mapping[str, list]) -> str:
    """The first of `changes`, and how many more there are; "" if nothing differs."""
    found = list(changes(before, now))
    more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
    return found[0] + more if found else ""
