"""Files and folders by path: local ones by Python, remote ones (gs://...) by `tf.io.gfile`.

So a local path can be looked at before TensorFlow starts.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import sys
import types
import uuid
from pathlib import Path
from typing import Any

from switch_tf.errors import UserError

# What `tf.io.gfile` has, by its names.
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
    """Whether the path is one that only TensorFlow reads, such as gs://bucket/folder."""
    return isinstance(path, str) and "://" in path


def _system(path):
    if not is_remote(path):
        return _LOCAL
    import tensorflow as tf

    return tf.io.gfile


def exists(path: str | Path) -> bool:
    """Whether there is a file or a folder."""
    return _system(path).exists(path)


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder."""
    return _system(path).isdir(path)


def names(folder: str | Path) -> list[str]:
    """Names of the files and folders in a folder."""
    # Object stores end the name of a folder with a slash.
    return [name.rstrip("/") for name in _system(folder).listdir(folder)]


def make_folder(folder: str | Path) -> None:
    """Makes a folder, and those that it is in, unless it is there."""
    _system(folder).makedirs(folder)


def remove_folder(folder: str | Path) -> None:
    """Removes a folder and all that is in it."""
    _system(folder).rmtree(folder)


def move_folder(source: str, target: str) -> None:
    """Gives a folder of files another name; a remote one file by file: object stores have none."""
    if not is_remote(source):
        os.rename(source, target)
        return
    for name in names(source):
        _system(source).rename(f"{source}/{name}", f"{target}/{name}")
    remove_folder(source)
    make_folder(target)


def opened(path: str | Path, mode: str = "r"):
    """An open file, of UTF-8 if it is text."""
    if is_remote(path):
        return _system(path).GFile(path, mode)
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def read_text(path: str | Path) -> str:
    """The text of a file."""
    with opened(path) as file:
        return file.read()


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file such that readers, and an interrupt, find it whole or as it was before."""
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
    """Writes a value as JSON, as `write_atomically`."""
    write_atomically(path, json.dumps(value, indent=2))


def try_to_write(path: str) -> None:
    """Writes and removes an empty file beside `path`: no permission tells so much of every system.

    Raises:
      One of `errors`: a file cannot be written there.
    """
    trial = f"{path}.{uuid.uuid4().hex}.tmp"
    with opened(trial, "wb") as file:
        # TensorFlow makes a file with the first write, of no bytes, too.
        file.write(b"")
    _system(trial).remove(trial)


def errors() -> tuple[type[Exception], ...]:
    """What reading and writing files raises, TensorFlow's ways among them."""
    tensorflow = sys.modules.get("tensorflow")
    return (OSError, tensorflow.errors.OpError) if tensorflow else (OSError,)


def first_line(error: BaseException) -> str:
    """The first line of an error, without TensorFlow's {{function_node ...}}."""
    lines = re.sub(r"\{\{.*?\}\} ?", "", str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def told(what: str):
    """Turns what a full, forbidden or unreachable disk raises into a UserError that opens so."""
    try:
        yield
    except errors() as error:
        raise UserError(f"{what}: {first_line(error)}") from error
