"""Span-corruption pre-training on the user's own files: `local_text_span_corruption`.

    --gin.local_text.train="'data/c4-train.*.json.gz'"
    --gin.local_text.validation="'data/c4-validation.*.json.gz'"
    --gin.VOCABULARY_PATH="'data/vocabulary.model'"

See `switch_tf.tasks.sources.local_files.documents` for the format of the files.
"""

from collections.abc import Sequence
from pathlib import Path

from switch_tf import storage
from switch_tf.errors import UserError
from switch_tf.rules import Pattern, configurable
from switch_tf.tasks.parts import pretraining
from switch_tf.tasks.sources.text_files import TextFiles

TASK = "local_text_span_corruption"
SPLITS = ("train", "validation")


@configurable("local_text")
def settings(
    train: Pattern | Sequence[Pattern] = (), validation: Pattern | Sequence[Pattern] = ()
) -> dict[str, list[str]]:
    """The patterns of the user's files.

    Args:
      train: one or several path patterns, local (`**` matches any folders) or remote. Use many
        files rather than one large file: they are shuffled and read in parallel.
      validation: the same for the validation split.

    Returns:
      Split -> patterns.
    """
    patterns = {"train": train, "validation": validation}
    return {k: list(v) if isinstance(v, list | tuple) else [v] for k, v in patterns.items()}


def files(split: str) -> list[str]:
    """The sorted files of a split.

    Raises:
      UserError: no pattern is set, or one matches no file.
    """
    patterns = settings()[split]
    if not patterns:
        raise UserError(
            f"{TASK}: no files for the split '{split}'; set --gin.local_text.{split}="
            "\"'FOLDER/*.txt'\""
        )
    found = set()
    for pattern in patterns:
        matches = _matches(pattern)
        if not matches:
            where = "" if storage.is_remote(pattern) else f", relative to {Path.cwd()}"
            raise UserError(f"local_text.{split}='{pattern}' matches no file{where}")
        found |= matches
    return sorted(found)


def _matches(pattern: str) -> set[str]:
    return {path for path in storage.matching(pattern) if storage.is_file(path)}


class LocalSource(TextFiles):
    """Text files whose names are read from gin at first use."""

    def __init__(self):
        super().__init__(files, SPLITS)

    def prepare(self) -> None:
        """Checks the files that gin names; there must be train files."""
        for split in SPLITS:
            if split == "train" or settings()[split]:
                self.list_shards(split)

    def describe(self) -> str:
        """The settings that name the files."""
        return "files of local_text.train and .validation"

    def missing(self) -> str | None:
        """The setting that matches no file."""
        patterns = settings()
        if not patterns["train"]:
            return "local_text.train is not set"
        for split in SPLITS:
            for pattern in patterns[split]:
                if not _matches(pattern):
                    return f"no file matches {pattern}"
        return None


pretraining.add(TASK, LocalSource())
