"""The corpus of docstrings and its vocabulary, built once per lock file and then cached."""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path

from switch_tf import accelerators, rules, storage
from switch_tf.errors import UserError
from switch_tf.tasks.docstrings import parse
from switch_tf.tasks.docstrings.parse import Document
from switch_tf.tasks.vocabulary import t5

SPLITS = ("train", "validation")
# Part of the cache's key: increase it when the same sources should give another corpus.
_FORMAT = 1


@rules.configurable("pydocs")
def settings(
    cache_folder: rules.Path | None = None, vocabulary_size: rules.Count = 2000
) -> tuple[Path, int]:
    """The location of the corpus and the size of its vocabulary.

    Args:
      cache_folder: the local folder for corpora, by default `switch_tf/pydocs` in
        `$XDG_CACHE_HOME` or `~/.cache`. Runs that share one parse the packages only once; set it if
        the home folder is not writable or not kept.
      vocabulary_size: number of pieces, before the 100 sentinels. More pieces make texts shorter in
        tokens but embeddings larger and rare pieces less well trained; 2000 suits models of a few
        million parameters.

    Returns:
      The folder for the corpus of the installed packages, and the number of pieces.

    Raises:
      UserError: the cache folder is remote: processes lock it, which only local ones allow.
    """
    if cache_folder is None:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache_folder = Path(caches) / "switch_tf" / "pydocs"
    folder = storage.local_path("pydocs.cache_folder", cache_folder)
    return folder / _key(), vocabulary_size


@functools.cache
def _key() -> str:
    """A hash of the packages' versions and of the parameters for parsing them."""
    try:
        versions = {name: _version(name) for name in parse.LIBRARIES.values()}
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"pydocs: package '{error.name}' is not installed; install requirements.txt "
            "(scripts/quickstart.sh does this)"
        ) from error
    made_by = (_FORMAT, parse.MIN_CHARACTERS, parse.VALIDATION_PER_MILLE)
    return hashlib.sha256(repr((versions, made_by)).encode()).hexdigest()[:16]


def _version(name: str) -> str:
    """The version of a distribution; of TensorFlow also that of another which holds its module."""
    others = accelerators.tensorflow_packages() if name == "tensorflow" else {}
    if others and name not in others:
        # Its files are not all the same.
        return " ".join(next(iter(others.items())))
    return importlib.metadata.version(name)


def documents(split: str) -> list[Document]:
    """The documents of a split, ordered by hash; parses the packages if needed."""
    return _read(prepare(), split)


@functools.lru_cache(maxsize=len(SPLITS))
def _read(folder: Path, split: str) -> list[Document]:
    with open(folder / f"{split}.jsonl", encoding="utf-8") as file:
        return [Document(**json.loads(line)) for line in file]


def prepare() -> Path:
    """Builds the corpus, with a progress bar, unless it exists.

    Returns:
      The folder with `train.jsonl` and `validation.jsonl`.

    Raises:
      UserError: a package is missing, or the cache folder is not writable.
    """
    folder, _ = settings()
    # Written last, so that its presence means that everything else is there.
    complete = folder / "COMPLETE"
    if not complete.exists():
        with _locked(folder):
            # Another process may have built it while this one waited.
            if not complete.exists():
                _parse(folder)
                storage.write_atomically(complete, "")
    return folder


def _parse(folder: Path) -> None:
    found = parse.parse_libraries(parse.find_libraries(), workers=_workers())
    for split in SPLITS:
        lines = [
            json.dumps({"text": d.text, "library": d.library, "name": d.name}, ensure_ascii=False)
            for d in found
            if d.split == split
        ]
        storage.write_atomically(folder / f"{split}.jsonl", "".join(f"{line}\n" for line in lines))


def _workers() -> int:
    return min(8, len(os.sched_getaffinity(0)))


def vocabulary_path() -> str:
    """The path of the SentencePiece model of the size that gin sets, trained if needed.

    Raises:
      UserError: see `prepare`; or the corpus has too few pieces for the size.
    """
    folder, size = settings()
    path = folder / f"vocabulary_{size}.model"
    if not path.exists():
        prepare()
        with _locked(folder):
            if not path.exists():
                t5.train(_sample(), path, size)
    return str(path)


def _sample() -> Iterator[str]:
    """Yields the first train documents, a random sample because they are ordered by hash."""
    read = 0
    for document in documents("train"):
        yield document.text
        read += len(document.text)
        if read >= t5.TRAINING_CHARACTERS:
            break


@contextlib.contextmanager
def _locked(folder: Path):
    """Lets one process in at a time; the system frees the lock when a process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "LOCK", "a")
    except OSError as error:
        raise UserError(
            f"pydocs: cannot write to the cache {folder} ({error.strerror}); set "
            "--gin.pydocs.cache_folder=\"'FOLDER'\""
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
