"""The layout of a MODEL_DIR; local ones can be inspected before TensorFlow starts.

    checkpoint_<step>/           `state.*`, the tensors; `data.*`, the position in the data;
                                 `notes.json`, if there are: the last losses, bad steps so far
    checkpoint_<step>.partial/   a checkpoint being written, or whose writing was interrupted
    checkpoint_<step>.damaged/   a checkpoint that could not be read
    config.gin                   the operative configuration, as of the last save
    run.json                     facts about the run, for reports and for runs that start from it:
                                 model, sizes, mesh, devices, versions, a digest of the vocabulary
    vocabulary.model             a copy of the SentencePiece model, if the run's tasks have one
    description.txt              settings, weights with their layouts, and Switch layers
    metrics.jsonl, tensorboard/  the metrics of training, by period, and of every evaluation; and
                                 profiles, in the latter
    best.json                    the best evaluation of each task and metric
    metrics_until_<step>.jsonl,  those of a run whose checkpoints were gone, so that it began again
    best_until_<step>.json
    predictions/                 <split>_<step>/<task>.jsonl, of the evaluations of training
    evaluations/                 <task>_<split>_<step>.json, and predictions, of `switch-tf eval`:
                                 outside the checkpoints, which do not stay
    bad_steps/step_<step>.npz    the batches of bad steps; see `BadSteps`
    in_use                       the process that trains, until it ends; see `lock`
    settings.json, log.txt,      settings and output of a run started by `switch-tf reproduce`,
    sittings.jsonl               and how long each of its processes took

A checkpoint is whole or absent. A local one is written under another name and renamed at the end.
Remote file systems have no atomic renaming of a folder: there, files are written in place, and
`state.index`, written last, completes the checkpoint.

Of several processes, all write the tensors of their devices, and only the chief the other files.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping

from switch_tf import runtime, storage
from switch_tf.errors import UserError
from switch_tf.hosts import agreement

CONFIG = "config.gin"
FACTS = "run.json"
VOCABULARY = "vocabulary.model"
_FOLDER = re.compile(r"checkpoint_(\d+)")
_PARTIAL = ".partial"


class ModelDir:
    """The paths of a MODEL_DIR, which need not exist yet.

    Args:
      path: a local or remote folder; ~ expands to the home folder.

    Attributes:
      path: the folder.
      config, facts, vocabulary, description, metrics, events, best, settings, log, sittings,
        in_use: paths in it.
    """

    def __init__(self, path: str):
        self.path = os.path.expanduser(path)
        self.config = os.path.join(self.path, CONFIG)
        self.facts = os.path.join(self.path, FACTS)
        self.vocabulary = os.path.join(self.path, VOCABULARY)
        self.description = os.path.join(self.path, "description.txt")
        self.metrics = os.path.join(self.path, "metrics.jsonl")
        self.events = os.path.join(self.path, "tensorboard")
        self.best = os.path.join(self.path, "best.json")
        self.sittings = os.path.join(self.path, "sittings.jsonl")
        self.settings = os.path.join(self.path, "settings.json")
        self.log = os.path.join(self.path, "log.txt")
        self.in_use = os.path.join(self.path, "in_use")

    def checkpoint(self, step: int) -> str:
        """Path of the folder checkpoint_<step>."""
        return os.path.join(self.path, f"checkpoint_{step}")

    def predictions(self, split: str, step: int) -> str:
        """Path of the folder for the predictions of one evaluation."""
        return os.path.join(self.path, "predictions", f"{_in_a_name(split)}_{step}")

    def bad_step(self, step: int) -> str:
        """Path of the file for the batch of a bad step."""
        return os.path.join(self.path, "bad_steps", f"step_{step}.npz")

    def steps(self) -> list[int]:
        """The steps of all whole checkpoints, ascending."""
        return sorted(step for step in self._folders() if self._is_whole(step))

    def set_aside(self, step: int) -> str:
        """Renames an unreadable checkpoint and returns its new path."""
        aside = self.checkpoint(step) + ".damaged"
        if storage.exists(aside):
            storage.remove_folder(aside)
        storage.move_folder(self.checkpoint(step), aside)
        return aside

    def remove_interrupted(self) -> None:
        """Removes the remains of interrupted saves."""
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
        # A local checkpoint that lacks a file was whole once, so it is damaged and must be
        # reported.
        return not storage.is_remote(self.path) or is_checkpoint(self.checkpoint(step))


def find(path: str, setting: str) -> str:
    """The checkpoint at `path`: the folder itself, or the newest checkpoint in a MODEL_DIR.

    Args:
      path: the folder.
      setting: what gives it, for errors.

    Raises:
      UserError: there is none.
    """
    path = os.path.expanduser(path)
    if is_checkpoint(path):
        return path
    folder = ModelDir(path)
    there = folder.steps()
    if not there:
        below = _with_checkpoints(path) if os.path.isdir(path) else ""
        raise UserError(
            f"{setting}='{path}': no checkpoint there{below}: give a MODEL_DIR that holds "
            "checkpoints, or a checkpoint_<step> folder"
        )
    return folder.checkpoint(there[-1])


def _with_checkpoints(path: str) -> str:
    """What folders in a local folder hold checkpoints, for an error; may be empty."""
    inside = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    runs = [os.path.basename(folder) for folder in inside if ModelDir(folder).steps()]
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    return f", but in {', '.join(runs[:3])}{more} in it" if runs else ""


def find_file(path: str, name: str) -> str | None:
    """Finds a file of a MODEL_DIR, given the folder or a checkpoint in it; None if it is missing.

    Args:
      path: a MODEL_DIR, or a checkpoint in one or on its own.
      name: `CONFIG`, `FACTS` or `VOCABULARY`.
    """
    path = os.path.expanduser(path)
    places = (os.path.join(folder, name) for folder in (path, os.path.dirname(path.rstrip("/"))))
    return next((place for place in places if storage.exists(place)), None)


def is_run_config(path: str) -> bool:
    """Whether a local file is the config.gin of a run or of a checkpoint."""
    folder, name = os.path.split(path)
    return name == CONFIG and (is_checkpoint(folder) or os.path.isfile(os.path.join(folder, FACTS)))


def evaluation(checkpoint: str, task: str, split: str) -> str:
    """Path of the figures of `switch-tf eval`: in the run's folder, or in a checkpoint on its own.

    Args:
      checkpoint: the folder of the evaluated checkpoint.
      task, split: what it is evaluated on.
    """
    run, folder = os.path.split(checkpoint.rstrip("/"))
    name, of_run = f"{_in_a_name(task)}_{_in_a_name(split)}", _FOLDER.fullmatch(folder)
    if of_run and storage.exists(os.path.join(run, FACTS)):
        return os.path.join(run, "evaluations", f"{name}_{of_run.group(1)}.json")
    return os.path.join(checkpoint, f"evaluation_{name}.json")


def _in_a_name(text: str) -> str:
    """A text as a part of a file's name; splits may be such as `test[:10%]`."""
    return re.sub(r"[^\w.-]+", "_", text)


def claim(path: str) -> str:
    """Creates an empty file at the path or, where that is taken, with the first free number from 2.

    It is taken if there is the file, or a folder for its predictions.
    """
    stem, end = os.path.splitext(path)
    names = itertools.chain([path], (f"{stem}_{number}{end}" for number in itertools.count(2)))
    free = (name for name in names if not storage.exists(predictions_beside(name)))
    return next(name for name in free if storage.create(name))


def predictions_beside(path: str) -> str:
    """Path of the folder for the predictions that belong to figures of `switch-tf eval`."""
    return f"{os.path.splitext(path)[0]}_predictions"


def is_checkpoint(folder: str) -> bool:
    """Whether a folder is a checkpoint."""
    return storage.exists(state_prefix(folder) + ".index")


def state_prefix(folder: str) -> str:
    """The `tensor_files` prefix of a checkpoint's tensors."""
    return os.path.join(folder, "state")


def notes_path(folder: str) -> str:
    """The path of what a run notes with a checkpoint, if there is something to note."""
    return os.path.join(folder, "notes.json")


def data_prefix(folder: str) -> str:
    """The file prefix of a checkpoint's position in the data."""
    return os.path.join(folder, "data")


def write_as_chief(path: str, content: str | bytes | Mapping) -> None:
    """Writes a file that all processes of a run would write alike: only the chief does.

    Args:
      path: the file.
      content: a text, bytes, or what is written as JSON.

    Raises:
      UserError: it cannot be written.
    """
    if runtime.is_chief():
        write = storage.write_json if isinstance(content, Mapping) else storage.write_atomically
        with storage.told(f"cannot write '{path}'"):
            write(path, content)


@contextlib.contextmanager
def writing(folder: str) -> Iterator[str]:
    """Yields an empty folder for a new checkpoint's files, which ends up whole or absent.

    The files under `state_prefix` must be written last.

    Of several hosts, all write to the folder, and the chief makes and renames it.

    Args:
      folder: the checkpoint's folder.
    """
    place = folder if storage.is_remote(folder) else folder + _PARTIAL
    if runtime.is_chief():
        if storage.exists(place):
            storage.remove_folder(place)
        storage.make_folder(place)
    agreement.barrier("a checkpoint's folder is made")
    yield place
    agreement.barrier("a checkpoint is written")
    if place != folder and runtime.is_chief():
        storage.move_folder(place, folder)
    agreement.barrier("a checkpoint is whole")
