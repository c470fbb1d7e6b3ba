"""Datasets read from their published files, or else through TFDS.

`DATA_DIR` names the folder, local or remote, that holds all of them, each dataset under the path
given by its module.
Examples have the features of the dataset in TFDS, so that T5's preprocessors accept either.
`BAD_DATA` decides what happens to unreadable records: "stop", the default, reveals a damaged file
at once; "skip" suits large corpora, where losing a few records does no harm.
"""

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from switch_tf import config, storage
from switch_tf.data import availability, dropped
from switch_tf.data.availability import ABSENT
from switch_tf.data.records import BARE
from switch_tf.data.skipping import bad_data
from switch_tf.errors import UserError
from switch_tf.rules import Folder, Path
from switch_tf.stages import counting
from switch_tf.tasks.sources import formats, local_files
from switch_tf.tasks.sources.formats import BadRecord, OmittedRecord, Records, SplitFiles
from switch_tf.tasks.sources.indexed import IndexedSource

_DATA_DIR = Folder("the folder that holds the datasets")
# A slice of a split, such as train[:100] or train[100:].
_PART = re.compile(r"(\w+)\[(\d*):(\d*)\]")


def data_dir() -> str | None:
    """DATA_DIR, if gin sets it.

    Raises:
      UserError: it is not a folder.
    """
    path = config.macro("DATA_DIR", None, annotation=Annotated[Path, _DATA_DIR])
    return None if path is None else _DATA_DIR.check("DATA_DIR", path)


class Placed(NamedTuple):
    """An encoded example, and the place of its record."""

    place: str
    example: dict


class OfficialSource(IndexedSource):
    """The examples of a dataset, from DATA_DIR if gin sets it, else from TFDS.

    Args:
      tfds_name: the dataset's name in TFDS, with config and version.
      files: split -> its path under DATA_DIR.
      examples: returns the examples in a record, as TFDS's builder does; a KeyError, ValueError or
        the like means that the record is bad.
      form: returns pairs of place and record, given the files of a split.
      others: further paths under DATA_DIR that `form` reads; a tuple gives alternatives.
      tfds_splits: split -> its name in TFDS, if different. It may be a slice of a TFDS split, such
        as "train[100:]": `files` then gives the file of the whole split, which is sliced in TFDS's
        order.
      key: returns the key by which TFDS's builder orders examples, given the record's number, from
        0, and the example.
      may_lack: whether mixtures leave it out if DATA_DIR has none of its files.
    """

    def __init__(
        self,
        tfds_name: str,
        files: Mapping[str, str],
        examples: Callable[[Any], Iterator[dict]],
        form: Callable[[SplitFiles], Records] = formats.json_lines,
        others: Sequence[str | tuple[str, ...]] = (),
        tfds_splits: Mapping[str, str] | None = None,
        key: Callable[[int, dict], int | str] = lambda number, example: number,
        may_lack: bool = False,
    ):
        self.may_lack = may_lack
        self.tfds_name = tfds_name
        self.files = dict(files)
        self.others = tuple(others)
        self._examples = examples
        self._form = form
        self.tfds_splits = {split: split for split in files} | dict(tfds_splits or {})
        parts = filter(None, map(_PART.fullmatch, self.tfds_splits.values()))
        self._parted = {part[1] for part in parts}
        self._key = key
        self._tfds = seqio.TfdsDataSource(tfds_name, splits=self.tfds_splits)
        super().__init__(splits=tuple(files))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose files exist; without DATA_DIR, all of them."""
        folder = data_dir()
        if folder is None:
            return tuple(self.files)
        there = [s for s, f in self.files.items() if storage.is_file(os.path.join(folder, f))]
        return tuple(there or (ABSENT if self.may_lack else self.files))

    @property
    def features(self) -> tfds.features.FeaturesDict:
        """The TFDS features with which examples are encoded."""
        return _features(self.tfds_name)

    def split_files(self, split: str) -> SplitFiles:
        """The files of a split under DATA_DIR.

        Raises:
          UserError: one does not exist.
        """
        found = []
        for names in (self.files[split], *self.others):
            names = names if isinstance(names, tuple) else (names,)
            paths = [os.path.join(data_dir(), name) for name in names]
            there = [path for path in paths if storage.exists(path)]
            if not there:
                raise UserError(
                    f"{paths[0]}: no such file; DATA_DIR must contain {' or '.join(names)} for "
                    f"{self.tfds_name}"
                )
            found.append(there[0])
        return SplitFiles(split, found[0], tuple(found[1:]))

    def prepare(self) -> None:
        """Reads the local files, so that errors in them appear at once, or has TFDS fetch them.

        Test files, which may be large and are rarely used, are read only when they are used.
        """
        if data_dir() is None:
            folders = ", ".join(self._folders())
            mend = f"set DATA_DIR to the folder of the published {folders} (docs/tasks.md), or "
            availability.fetch(self.tfds_name, otherwise=mend)
            return
        for split in self.files:
            if split.startswith("test"):
                continue
            if split in self.splits:
                self.examples(split)
            else:
                file = self.files[split]
                print(
                    f"DATA_DIR has no {file}: {self.tfds_name} is read without its split '{split}'"
                )

    def describe(self) -> str:
        """The dataset's name in TFDS, and its folder under DATA_DIR."""
        return f"{self.tfds_name} or DATA_DIR/{', '.join(self._folders())}"

    def _folders(self) -> list[str]:
        return sorted({file.split("/")[0] for file in self.files.values()})

    def missing(self) -> str | None:
        """The train and validation files missing in DATA_DIR, or that TFDS has not prepared it."""
        folder = data_dir()
        if folder is None:
            return availability.missing_of_tfds(self.tfds_name)
        wanted = [file for split, file in self.files.items() if not split.startswith("test")]
        lacking = []
        for names in (*dict.fromkeys(wanted), *self.others):
            names = names if isinstance(names, tuple) else (names,)
            if not any(storage.exists(os.path.join(folder, name)) for name in names):
                lacking.append(" or ".join(names))
        return availability.first_of(lacking)

    def examples(self, split: str) -> list[dict]:
        """The encoded examples of a split of local files.

        Raises:
          UserError: see `encoded`; or the split is a slice beyond the end of a file.
        """
        return [placed.example for placed in self._placed(split)]

    def place(self, split: str, number: int) -> str:
        """The file and line, or item, of an example."""
        if data_dir() is None:
            return f"{self.tfds_name}, example {number + 1}"
        return self._placed(split)[number].place

    def paths(self, split: str) -> list[str]:
        """The local files of a split."""
        if data_dir() is None:
            return []
        files = self.split_files(split)
        return [files.path, *files.others]

    def _placed(self, split: str) -> list["Placed"]:
        files, part = self.split_files(split), _PART.fullmatch(self.tfds_splits[split])
        if part:
            files = dataclasses.replace(files, split=part[1])
        stamps = tuple(local_files.stamp(path) for path in (files.path, *files.others))
        # One that leaves out what a task refuses is a copy.
        found = _read(getattr(self, BARE, self), files, bad_data(), stamps)
        if not part:
            return found
        begin, end = (int(number) if number else None for number in part.groups()[1:])
        if len(found) <= (begin or 0):
            raise UserError(
                f"{files.path}: {len(found):,} examples, but '{split}' starts after the first "
                f"{begin:,} ({part[0]} of {self.tfds_name}): the file is cut off; download it again"
            )
        return found[begin:end]

    def num_input_examples(self, split: str) -> int | None:
        """Number of examples in a split."""
        if data_dir() is None:
            return self._tfds.num_input_examples(split)
        return len(self.examples(split))

    def list_shards(self, split: str) -> list[str]:
        """A single shard for local files, because examples are sharded instead."""
        if data_dir() is None:
            return list(self._tfds.list_shards(split))
        return super().list_shards(split)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """True for local files."""
        return data_dir() is not None

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused):
        """See `seqio.DataSource.get_dataset`."""
        if data_dir() is None:
            return self._tfds.get_dataset(split, shuffle, seed, shard_info)
        return super().get_dataset(split, shuffle, seed, shard_info)

    def look_up(self, split: str) -> Callable[[tf.Tensor], dict]:
        """Returns a function from an example's number to its tensors."""
        examples, spec = self._placed(split), self.features.get_tensor_spec()
        flat = tf.nest.flatten(spec)

        def values(number):
            found = _leaves(spec, examples[number].example)
            return [_array(value, s.dtype) for value, s in zip(found, flat, strict=True)]

        def tensors(number):
            found = tf.numpy_function(values, [number], [s.dtype for s in flat], stateful=False)
            shaped = [tf.ensure_shape(v, s.shape) for v, s in zip(found, flat, strict=True)]
            return tf.nest.pack_sequence_as(spec, shaped)

        return tensors

    def encoded(self, files: SplitFiles, policy: str) -> list["Placed"]:
        """Encodes the examples of a split; prints how many records were dropped.

        Raises:
          UserError: a record is bad and `policy` is "stop", with its place in the message; or there
            is no good record.
        """
        found, numbers, bad, left_out = [], [], [], []
        records = self._form(files)
        name = f"reading {self.files[files.split]}"
        with counting(name, "records", at_once=False) as add:
            for number, (place, record) in enumerate(records):
                add(1)
                try:
                    made = self._encode(record, files.split)
                    found += [Placed(place, example) for example in made]
                    numbers += [number] * (len(found) - len(numbers))
                except OmittedRecord as error:
                    left_out.append(f"{place}: {error}")
                except BadRecord as error:
                    bad.append(f"{place}: {error}")
                    if policy == "stop":
                        raise UserError(
                            f"{bad[0]}; fix or remove it, or set BAD_DATA='skip' to skip such "
                            "records"
                        ) from error
        for told, why in ((bad, "BAD_DATA='skip'"), (left_out, "as TFDS does")):
            if told:
                print(f"{files.path}: {len(told)} records skipped ({why}), the first: {told[0]}")
        if not found:
            raise UserError(f"{files.path}: no examples in it")
        lost = sum(dropped.in_value(placed.example) for placed in found)
        if lost:
            print(dropped.told(files.path, lost), file=sys.stderr)
        if files.split in self._parted:
            hashed = hashing.Hasher(files.split).hash_key
            pairs = zip(numbers, found, strict=True)
            keys = [hashed(self._key(number, placed.example)) for number, placed in pairs]
            found = [found[place] for place in sorted(range(len(found)), key=keys.__getitem__)]
        return found

    def _encode(self, record, split: str) -> list[dict]:
        if isinstance(record, BadRecord):
            raise record
        try:
            examples = [self.features.encode_example(e) for e in self._examples(record)]
        except KeyError as error:
            raise BadRecord(f"no field {error}") from error
        except BadRecord:
            raise
        except Exception as error:
            # TFDS puts the feature's name and the value on separate lines.
            told = " ".join(str(error).split()).removeprefix("KeyError: ")
            raise BadRecord(told or type(error).__name__) from error
        if not split.startswith("test") and any(map(_is_unanswered, examples)):
            raise BadRecord("no label or answer")
        return examples


def _is_unanswered(example: dict) -> bool:
    """Whether an example lacks a label or answers, as in TFDS's test splits."""
    return example.get("label") == -1 or len(example.get("answers", "?")) == 0


def _leaves(spec, value) -> list:
    """The values of a nest in the order of `tf.nest.flatten`, with sequences kept whole."""
    if not isinstance(spec, dict):
        return [value]
    return [leaf for key in sorted(spec) for leaf in _leaves(spec[key], value[key])]


def _array(value, dtype: tf.DType) -> np.ndarray:
    if dtype != tf.string:
        return np.asarray(value, dtype.as_numpy_dtype)
    # TFDS encodes a sequence of strings as an array of arrays.
    values = np.asarray(value, object)
    return values if not values.ndim else np.array([str(v) for v in values], object)


@functools.cache
def _features(tfds_name: str) -> tfds.features.FeaturesDict:
    return tfds.builder(tfds_name).info.features


@functools.lru_cache(maxsize=256)
def _read(source: OfficialSource, files: SplitFiles, policy: str, stamps: tuple) -> list[Placed]:
    """Reads files once; `stamps`, their sizes and times, reveal when they change."""
    return source.encoded(files, policy)
