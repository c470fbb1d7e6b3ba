"""How a MODEL_DIR looks; local ones can be looked at before TensorFlow starts.

    checkpoint_<step>/           `state.*`, the tensors; `data.*`, the place in the data; and
                                 evaluation.json, of `switch-tf eval`
    checkpoint_<step>.partial/   one that is being written, or whose writing was interrupted
    checkpoint_<step>.damaged/   one that could not be read
    config.gin                   the operative configuration, as of the last save
    run.json                     facts of the run, for reports and for runs that go on from it
    metrics.jsonl, tensorboard/  the figures of every step and evaluation
    best.json                    the best evaluation of each task

A checkpoint is whole or absent. A local one is written under another name and renamed last. On a
remote file system renaming a folder is many renamings, if there is any: the files are written in
their place, and what makes a checkpoint is `state.index`, which comes last.
"""

import contextlib
import os
import re
from collections.abc import Iterator

from switch_tf import storage

CONFIG = "config.gin"
FACTS = "run.json"
EVALUATION = "evaluation.json"
_FOLDER = re.compile(r"checkpoint_(\d+)")
_PARTIAL = ".partial"


class ModelDir:
    """A MODEL_DIR, there or to be made.

    Args:
      path: a local or a remote folder; ~ is the home folder.

    Attributes:
      path: of the folder.
      config, facts, metrics, events, best: paths in it.
    """

    def __init__(self, path: str):
        self.path = os.path.expanduser(path)
        self.config = os.path.join(self.path, CONFIG)
        self.facts = os.path.join(self.path, FACTS)
        self.metrics = os.path.join(self.path, "metrics.jsonl")
        self.events = os.path.join(self.path, "tensorboard")
        self.best = os.path.join(self.path, "best.json")

    def checkpoint(self, step: int) -> str:
        """Path of the folder checkpoint_<step>."""
        return os.path.join(self.path, f"checkpoint_{step}")

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        return sorted(step for step in self._folders() if self._is_whole(step))

    def set_aside(self, step: int) -> str:
        """Renames a checkpoint that cannot be read; returns its new path."""
        aside = self.checkpoint(step) + ".damaged"
        if storage.exists(aside):
            storage.remove_folder(aside)
        storage.move_folder(self.checkpoint(step), aside)
        return aside

    def remove_interrupted(self) -> None:
        """Removes what a save that was interrupted left."""
        left = [self.checkpoint(step) for step in self._folders() if not self._is_whole(step)]
        for name in storage.names(self.path):
            if name.startswith("checkpoint_") and name.endswith(_PARTIAL):
                left.append(os.path.join(self.path, name))
        for folder in left:
            storage.remove_folder(folder)

    def _folders(self) -> list[int]:
        if not storage.is_folder(self.path):
            return []
        found = (_FOLDER.fullmatch(name) for name in storage.names(self.path))
        return [int(match.group(1)) for match in found if match]

    def _is_whole(self, step: int) -> bool:
        # A local one that lacks a file was whole: it is damaged, which is to be told.
        return not storage.is_remote(self.path) or is_checkpoint(self.checkpoint(step))


def find_file(path: str, name: str) -> str | None:
    """A file of a MODEL_DIR, given that folder or a checkpoint in it; None: it is not there.

    Args:
      path: a MODEL_DIR, or a checkpoint in it or by itself.
      name: `CONFIG` or `FACTS`.
    """
    path = os.path.expanduser(path)
    places = (os.path.join(folder, name) for folder in (path, os.path.dirname(path.rstrip("/"))))
    return next((place for place in places if storage.exists(place)), None)


def is_checkpoint(folder: str) -> bool:
    """Whether a folder is a checkpoint."""
    return storage.exists(state_prefix(folder) + ".index")


def state_prefix(folder: str) -> str:
    """Prefix of the files of a checkpoint's tensors, as `tensor_files` takes it."""
    return os.path.join(folder, "state")


def data_prefix(folder: str) -> str:
    """Prefix of the files of a checkpoint's place in the data."""
    return os.path.join(folder, "data")


@contextlib.contextmanager
def writing(folder: str) -> Iterator[str]:
    """Yields an empty folder for a new checkpoint's files; it is whole or absent in the end.

    What is written with `state_prefix` has to come last.

    Args:
      folder: of the checkpoint.
    """
    place = folder if storage.is_remote(folder) else folder + _PARTIAL
    if storage.exists(place):
        storage.remove_folder(place)
    storage.make_folder(place)
    yield place
    if place != folder:
        storage.move_folder(place, folder)
