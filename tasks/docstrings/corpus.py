"""The corpus of docstrings and its vocabulary: made once for each lock, then read from a cache."""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from switch_tf import rules, storage
from switch_tf.errors import UserError
from switch_tf.tasks.docstrings import parse as pydocs_parse
from switch_tf.tasks.docstrings.parse import Document
from switch_tf.tasks.vocabulary import t5 as vocabulary

SPLITS = ("train", "validation")
# Part of the cache's key: raise it when the same sources should give another corpus.
_FORMAT = 1


@rules.configurable("pydocs")
def settings(
    cache_folder: rules.Path | None = None, vocabulary_size: rules.Count = 2000
) -> tuple[Path, int]:
    """Where the corpus is kept, and how many pieces its vocabulary has.

    Args:
      cache_folder: by default `switch_tf/pydocs` in `$XDG_CACHE_HOME`, or in `~/.cache`.
      vocabulary_size: number of pieces; the vocabulary adds 100 sentinels.

    Returns:
      The folder of the corpus of the packages installed, and the number of pieces.
    """
    if cache_folder is None:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache_folder = Path(caches) / "switch_tf" / "pydocs"
    return Path(cache_folder).expanduser() / _key(), vocabulary_size


@functools.cache
def _key() -> str:
    """Changes with the version of any package, and with how they are parsed."""
    try:
        versions = {
            name: importlib.metadata.version(name) for name in pydocs_parse.LIBRARIES.values()
        }
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"pydocs: package '{error.name}' is not installed; install requirements.txt "
            "(scripts/quickstart.sh does)"
        ) from error
    made_by = (_FORMAT, pydocs_parse.MIN_CHARACTERS, pydocs_parse.VALIDATION_PER_MILLE)
    return hashlib.sha256(repr((versions, made_by)).encode()).hexdigest()[:16]


def documents(split: str) -> list[Document]:
    """The documents of a split, ordered by hash; parses the packages if no one did before."""
    return _read(prepare(), split)


@functools.lru_cache(maxsize=len(SPLITS))
def _read(folder: Path, split: str) -> list[Document]:
    with open(folder / f"{split}.jsonl", encoding="utf-8") as file:
        return [Document(**json.loads(line)) for line in file]


def prepare() -> Path:
    """Makes the corpus, with a progress bar, unless it is there.

    Returns:
      The folder with `train.jsonl` and `validation.jsonl`.

    Raises:
      UserError: a package is missing, or the cache folder cannot be written.
    """
    folder, _ = settings()
    # Written last, so where it is, everything is.
    complete = folder / "COMPLETE"
    if not complete.exists():
        with _locked(folder):
            # Another process may have made it while this one waited.
            if not complete.exists():
                _parse(folder)
                storage.write_atomically(complete, "")
    return folder


def _parse(folder: Path) -> None:
    found = pydocs_parse.parse_libraries(pydocs_parse.find_libraries(), workers=_workers())
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
    """Path of the SentencePiece model of the size that gin asks for; trains it if it is not there.

    Raises:
      UserError: as `prepare`; a size that the corpus cannot fill.
    """
    folder, size = settings()
    path = folder / f"vocabulary_{size}.model"
    if not path.exists():
        prepare()
        with _locked(folder):
            if not path.exists():
                vocabulary.train(_sample(size), path, size)
    return str(path)


def _sample(size: int) -> Iterator[str]:
    """The first train documents: their order is one by hash, so they are a sample."""
    total = vocabulary.TRAINING_CHARACTERS
    label = f"pydocs: reading for a vocabulary of {size}"
    with tqdm(total=total, desc=label, unit="char", unit_scale=True, file=sys.stderr) as bar:
        for document in documents("train"):
            yield document.text
            bar.update(len(document.text))
            if bar.n >= total:
                break
    print(f"pydocs: training a vocabulary of {size} pieces", file=sys.stderr)


@contextlib.contextmanager
def _locked(folder: Path):
    """One process at a time; the system frees the lock when a process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "LOCK", "a")
    except OSError as error:
        raise UserError(
            f"pydocs: cannot write the cache {folder} ({error.strerror}); set "
            "--gin.pydocs.cache_folder=\"'FOLDER'\""
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
