"""A SeqIO source of a corpus that is published as shards of JSON lines and by TFDS."""

import os
from collections.abc import Callable, Mapping

import seqio

from switch_tf import storage
from switch_tf.data import availability
from switch_tf.data.availability import ABSENT
from switch_tf.errors import UserError
from switch_tf.tasks.sources.official import data_dir
from switch_tf.tasks.sources.text_files import TextFiles


class Shards(TextFiles):
    """Examples {"text": document}, from local or remote shards if gin names them, else from TFDS.

    Args:
      tfds_name: the dataset's name in TFDS, with config and version.
      tfds_splits: split -> its name in TFDS.
      files: split -> the pattern of its shards under DATA_DIR.
      patterns: returns the patterns that gin sets instead: split -> pattern or None.
      setting: the configurable with these patterns, such as "c4", for errors.
      wanted: returns whether gin selects this corpus.
    """

    def __init__(
        self,
        tfds_name: str,
        tfds_splits: Mapping[str, str],
        files: Mapping[str, str],
        patterns: Callable[[], Mapping[str, str | None]],
        setting: str,
        wanted: Callable[[], bool] = lambda: True,
    ):
        self.tfds_name = tfds_name
        self.files = dict(files)
        self._tfds = seqio.TfdsDataSource(tfds_name, splits=dict(tfds_splits))
        self._patterns, self._setting, self._wanted = patterns, setting, wanted
        super().__init__(self.shards, tuple(files))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose shards exist; if none do, all of them, so that an error is raised."""
        if not self._wanted():
            return ABSENT
        if not self._is_local():
            return tuple(self.files)
        there = [split for split in self.files if storage.matching(self._pattern(split))]
        return tuple(there or self._if_none())

    def _if_none(self) -> tuple[str, ...]:
        return tuple(self.files)

    def shards(self, split: str) -> list[str]:
        """The sorted paths of a split's shards.

        Raises:
          UserError: there is none.
        """
        pattern = self._pattern(split)
        found = storage.matching(pattern)
        if not found:
            raise UserError(
                f"no file matches {pattern}, the shards of {self.tfds_name}: {self._mend(split)}"
            )
        return found

    def _mend(self, split: str) -> str:
        return (
            f"set DATA_DIR to the folder that holds {self.files[split]}, or "
            f"{self._setting}.{split} to a pattern"
        )

    def list_shards(self, split: str) -> list[str]:
        """Checks and returns the shards of a split."""
        if not self._is_local():
            return list(self._tfds.list_shards(split))
        return super().list_shards(split)

    def paths(self, split: str) -> list[str]:
        """The shards of a split, unchecked; those of TFDS are not listed."""
        return super().paths(split) if self._is_local() else []

    def num_input_examples(self, split: str) -> int | None:
        """Number of documents in a split."""
        if not self._is_local():
            return self._tfds.num_input_examples(split)
        return super().num_input_examples(split)

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused):
        """See `seqio.DataSource.get_dataset`."""
        if self._is_local():
            return super().get_dataset(split, shuffle, seed, shard_info)
        dataset = self._tfds.get_dataset(split, shuffle, seed, shard_info)
        return dataset.map(lambda example: {"text": example["text"]})

    def prepare(self) -> None:
        """Reads the files of every split, so that errors in them appear at once.

        Without local files, TFDS must have prepared the corpus.
        """
        if self.splits == ABSENT:
            return
        if self._is_local():
            super().prepare()
        else:
            availability.fetch(self.tfds_name, otherwise=f"{self._mend('train')}, or ")

    def describe(self) -> str:
        """The name in TFDS, and the pattern from gin or the one under DATA_DIR."""
        own = self._patterns()["train"]
        return f"{self.tfds_name} or {own or os.path.join('DATA_DIR', self.files['train'])}"

    def missing(self) -> str | None:
        """The local patterns that match no shards, or that TFDS has not prepared the dataset."""
        if not self._wanted():
            return f"not in {self._setting}.languages"
        if not self._is_local():
            return availability.missing_of_tfds(self.tfds_name)
        patterns = [self._pattern(split) for split in self.files]
        return availability.first_of([p for p in patterns if not storage.matching(p)])

    def _is_local(self) -> bool:
        return data_dir() is not None or any(self._patterns().values())

    def _pattern(self, split: str) -> str:
        own = self._patterns()[split]
        if own is not None and not isinstance(own, str):
            raise UserError(f"{self._setting}.{split}={own!r}: give a pattern in quotes")
        return os.path.expanduser(own) if own else os.path.join(data_dir() or "", self.files[split])
