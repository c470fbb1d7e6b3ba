"""File access by path: Python for local paths, `tf.io.gfile` for remote ones (gs://...).

Local paths can thus be accessed before TensorFlow starts.
"""

import contextlib
import functools
import glob
import json
import os
import re
import shutil
import socket
import sys
import types
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from switch_tf.errors import StorageFails, UserError

# What TensorFlow's errors tell of its graphs, ops and iterators.
_NOISE = re.compile(
    r"\{\{.*?\}\} ?| *\[Op:\w+\]( name: ?\S*)?"
    r"|Error in user-defined function passed to \S+ transformation with iterator: \S+: "
)
# What names a remote file system in a text; links to web pages are in many errors.
_REMOTE = re.compile(r"\b(?!https?:)[a-z][a-z0-9]*://")
# TensorFlow's errors after which a remote file system may answer again. Where it has no code of its
# own for what happened, it says Internal or Unknown; an access token may just have run out.
_PASSING = (
    *("UnavailableError", "DeadlineExceededError", "AbortedError", "InternalError"),
    *("UnknownError", "UnauthenticatedError"),
)
_GOOGLE = "storage.googleapis.com", 443
_CONNECT_SECONDS = 10.0
# The functions of `tf.io.gfile`, under the same names.
_LOCAL = types.SimpleNamespace(
    exists=os.path.exists,
    isdir=os.path.isdir,
    listdir=os.listdir,
    makedirs=functools.partial(os.makedirs, exist_ok=True),
    remove=os.remove,
    rename=lambda source, target, overwrite: os.replace(source, target),
    rmtree=shutil.rmtree,
)


def is_remote(path: str | Path) -> bool:
    """Whether only TensorFlow can read the path, such as gs://bucket/folder."""
    return isinstance(path, str) and "://" in path


def reaches_google() -> bool:
    """Whether Google's storage can be reached; libraries that read from it would try for minutes.

    A proxy is taken to lead there.
    """
    if urllib.request.getproxies():
        return True
    try:
        socket.create_connection(_GOOGLE, timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _system(path):
    if not is_remote(path):
        return _LOCAL
    import tensorflow as tf

    return tf.io.gfile


def exists(path: str | Path) -> bool:
    """Whether the file or folder exists."""
    return _system(path).exists(path)


def is_folder(path: str | Path) -> bool:
    """Whether the path is an existing folder."""
    return _system(path).isdir(path)


def is_file(path: str | Path) -> bool:
    """Whether the path is an existing file."""
    return exists(path) and not is_folder(path)


def names(folder: str | Path) -> list[str]:
    """The names of the files and folders in a folder."""
    # Object stores append a slash to the names of folders.
    return [name.rstrip("/") for name in _system(folder).listdir(folder)]


def matching(pattern: str) -> list[str]:
    """The sorted paths that match a pattern; ~ expands to the home folder, `**` to any folders.

    Where a file or folder has a part of the pattern for its name, such as `part[1].txt`, it is that
    one.

    Raises:
      UserError: a remote pattern has `**`, or its file system cannot be read.
    """
    if not is_remote(pattern):
        return sorted(glob.glob(_by_name(os.path.expanduser(pattern)), recursive=True))
    if "**" in pattern:
        raise UserError(
            f"'{pattern}': ** matches local folders only: give a pattern for each depth, such as "
            "*/*.txt"
        )
    with told(f"'{pattern}' cannot be read"):
        if exists(pattern):
            return [pattern]
        return sorted(_system(pattern).glob(pattern))


def _by_name(pattern: str) -> str:
    """A local pattern, in which the first parts that exist by these names match only these."""
    there, *parts = "", *Path(pattern).parts
    while parts and os.path.lexists(os.path.join(there, parts[0])):
        there = os.path.join(there, parts.pop(0))
    return os.path.join(glob.escape(there), *parts)


def make_folder(folder: str | Path) -> None:
    """Creates a folder and its parents if they do not exist."""
    _system(folder).makedirs(folder)


def remove(path: str | Path) -> None:
    """Removes a file."""
    _system(path).remove(path)


def remove_folder(folder: str | Path) -> None:
    """Removes a folder and its contents."""
    _system(folder).rmtree(folder)


def move_file(source: str, target: str) -> None:
    """Renames a file; one that has the new name is replaced."""
    _system(source).rename(source, target, overwrite=True)


def move_folder(source: str, target: str) -> None:
    """Renames a folder of files to a path that does not exist; a remote one, file by file."""
    if not is_remote(source):
        os.rename(source, target)
        return
    for name in names(source):
        paths = f"{source}/{name}", f"{target}/{name}"
        try:
            _system(source).rename(*paths)
        except errors():
            # Some file systems need the folder first. Making it always would not do: ram:// lists
            # a folder `a.b` as the file `.b` of `a`, so that `a` could not be removed.
            make_folder(target)
            _system(source).rename(*paths)
    remove_folder(source)
    make_folder(target)


def create(path: str | Path) -> bool:
    """Creates an empty file unless there is one, and returns whether it did.

    Of several processes, one creates a local file; remote file systems promise no such thing.
    """
    if is_remote(path):
        if exists(path):
            return False
        write_atomically(path, "")
        return True
    try:
        open(path, "x").close()
    except FileExistsError:
        return False
    return True


def opened(path: str | Path, mode: str = "r"):
    """Opens a file, as UTF-8 if it is text."""
    if is_remote(path):
        return _system(path).GFile(path, mode)
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def is_still_at(file, path: str) -> bool:
    """Whether an open file is the one at a path, and not one that was removed or moved from there.

    That is not known of remote files.
    """
    if is_remote(path):
        return True
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def local_path(setting: str, path: str | Path) -> Path:
    """A path that has to be local; ~ expands to the home folder.

    Args:
      setting: the setting or flag that gives the path.

    Raises:
      UserError: it is remote.
    """
    if is_remote(path):
        raise UserError(f"{setting}='{path}': give a local path; this one is remote")
    return Path(path).expanduser()


def read_text(path: str | Path) -> str:
    """The text of a file."""
    with opened(path) as file:
        return file.read()


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file so that, even if interrupted, readers see it whole or as it was before."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with opened(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        _system(path).rename(temporary, path, overwrite=True)
    except BaseException:
        with contextlib.suppress(*errors()):
            _system(temporary).remove(temporary)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as JSON, with `write_atomically`."""
    write_atomically(path, json.dumps(value, indent=2))


def try_to_write(path: str) -> None:
    """Tests writing next to `path` with an empty file, as permissions are not reliable everywhere.

    Raises:
      One of `errors`: the folder is not writable.
    """
    trial = f"{path}.{uuid.uuid4().hex}.tmp"
    with opened(trial, "wb") as file:
        # TensorFlow creates a file only at the first write, even one of no bytes.
        file.write(b"")
    _system(trial).remove(trial)


def errors() -> tuple[type[Exception], ...]:
    """The exceptions raised by file access, including TensorFlow's."""
    tensorflow = sys.modules.get("tensorflow")
    return (OSError, tensorflow.errors.OpError) if tensorflow else (OSError,)


def first_line(error: BaseException) -> str:
    """The first line of an error, without what TensorFlow adds of its own parts."""
    lines = _NOISE.sub("", str(error)).splitlines()
    return lines[0].strip() if lines else type(error).__name__


def reason(error: Exception) -> str:
    """Why one of `errors` was raised, in a few words without the path."""
    return getattr(error, "strerror", None) or first_line(error)


def is_passing(error: BaseException, where: str = "") -> bool:
    """Whether an error is one of a remote file system that may be gone at the next try.

    Args:
      error: any.
      where: a text that names what was accessed. The error may name it, too.
    """
    if not _REMOTE.search(f"{where} {error}"):
        return False
    tensorflow = sys.modules.get("tensorflow")
    kinds = [getattr(tensorflow.errors, name) for name in _PASSING] if tensorflow else []
    return isinstance(error, (ConnectionError, TimeoutError, *kinds))


def failure(what: str, error: BaseException) -> UserError:
    """The line on an error of file access, after which a rerun helps or does not.

    Args:
      what: what failed, with the path; it comes first.
      error: one of `errors`.

    Returns:
      A `StorageFails` if the error `is_passing`.
    """
    line = f"{what}: {first_line(error)}"
    if is_passing(error, what):
        return StorageFails(f"{line}; this may pass: rerun the command to go on")
    return UserError(line)


@contextlib.contextmanager
def told(what: str):
    """Turns errors of a full, forbidden or unreachable disk into UserErrors.

    Args:
      what: what failed, with the path; it comes first.

    Raises:
      UserError: such an error; `StorageFails` if it may pass.
    """
    try:
        yield
    except errors() as error:
        raise failure(what, error) from error
