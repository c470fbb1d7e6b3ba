"""Facts about a run, kept next to its checkpoints in `run.json`."""

import contextlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import seqio

import switch_tf
from switch_tf import accelerators, runtime, storage
from switch_tf.checkpoints.model_dir import FACTS, ModelDir, find_file
from switch_tf.data import provenance
from switch_tf.errors import UserError

# Those whose versions may change a run's numbers.
_PACKAGES = ("tensorflow", "tensorflow-text", "keras", "numpy", "seqio", "t5", "gin-config")
_ROOT = Path(switch_tf.__file__).parent.parent


def versions() -> dict[str, str | None]:
    """Package -> version, of Python, this project and what it computes with.

    `commit` is the project's git commit, followed by -dirty if its files differ from it; None if
    it does not run from a checkout. A package that is not installed under its usual name has None,
    but for TensorFlow, which other packages hold, too: that of the lock for TPU is tensorflow-tpu.
    """
    found = {"python": platform.python_version(), "switch_tf": switch_tf.__version__}
    found["commit"] = _commit()
    for name in _PACKAGES:
        found[name] = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    others = accelerators.tensorflow_packages()
    found["tensorflow"] = found["tensorflow"] or next(iter(others.values()), None)
    return found | others


def _commit() -> str | None:
    # Not that of a repository in whose folder the project is only installed.
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
        return done.stdout.strip() or None
    return None


def keep_vocabulary(model_dir: str, provider) -> None:
    """Copies the SentencePiece model of a task or mixture into a MODEL_DIR.

    A copy of another one is replaced: a start that failed before its first checkpoint may have
    left it, and a run with checkpoints is only resumed with its own. Copies nothing if there is
    none, as for bytes, or if there are several.

    Args:
      model_dir: the run's folder.
      provider: a `seqio.Task` or `seqio.Mixture`.

    Raises:
      UserError: the file cannot be read or written.
    """
    copy = ModelDir(model_dir).vocabulary
    files = {
        getattr(feature.vocabulary, "sentencepiece_model_file", None)
        for task in seqio.get_subtasks(provider)
        for feature in task.output_features.values()
    } - {None}
    if not runtime.is_chief() or len(files) != 1:
        return
    with storage.told(f"the vocabulary cannot be copied to '{copy}'"):
        content = _read(*files)
        if not storage.exists(copy) or _read(copy) != content:
            storage.write_atomically(copy, content)


def _read(path: str) -> bytes:
    with storage.opened(path, "rb") as file:
        return file.read()


def vocabulary_digest(provider) -> str:
    """A digest of the vocabularies of a task or mixture, which differs if their pieces do.

    Args:
      provider: a `seqio.Task` or `seqio.Mixture`.
    """
    # Most tasks of a mixture share one vocabulary, whose model takes megabytes.
    vocabularies = {
        id(feature.vocabulary): feature.vocabulary
        for task in seqio.get_subtasks(provider)
        for feature in task.output_features.values()
    }
    return " ".join(sorted({provenance.digest(each) for each in vocabularies.values()}))


def model_config(setting: str, path: str) -> dict:
    """The `get_config` of the model that a run, or the run of a checkpoint, holds.

    Args:
      setting: the setting that gives the path.
      path: a MODEL_DIR, or a checkpoint in one.

    Raises:
      UserError: its run.json is missing, or was written by a version that did not keep it.
    """
    file = find_file(path, FACTS)
    known = json.loads(storage.read_text(file)) if file else {}
    if "model" not in known:
        raise UserError(
            f"{setting}='{path}': its run has no {FACTS} that says which model it holds; give a "
            "MODEL_DIR, and if it is of an earlier version, resume it once, which writes that"
        )
    return known["model"]


def check_vocabulary(setting: str, path: str, digest: str) -> None:
    """Checks that a run, or the run of a checkpoint, used this vocabulary, if known.

    Args:
      setting: the setting that gives the path.
      path: a MODEL_DIR, or a checkpoint in one.
      digest: the result of `vocabulary_digest`.

    Raises:
      UserError: it used another, so that the model's embeddings belong to other pieces.
    """
    file = find_file(path, FACTS)
    known = json.loads(storage.read_text(file)) if file else {}
    if known.get("vocabulary", digest) != digest:
        raise UserError(
            f"{setting}='{path}' holds a model with a vocabulary other than that of this run's "
            "task: set VOCABULARY_PATH to the one that the model was trained with, or give another "
            f"{setting}"
        )
