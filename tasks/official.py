"""Datasets from files in the form in which they are published, or else through TFDS.

One setting, `DATA_DIR`, names the folder that holds them, each dataset under the path that its
module gives. Examples are made with the features that TFDS has for the dataset, so that T5's
preprocessors take either. What `BAD_DATA` says, "stop" or "skip", happens to what cannot be read.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from switch_tf import config
from switch_tf.errors import UserError
from tasks import local_files
from tasks.indexed import IndexedSource

POLICIES = ("stop", "skip")


class BadRecord(Exception):
    """A record that is not in the form of its dataset; says why, in a line."""


def data_dir() -> str | None:
    """DATA_DIR, if gin sets it.

    Raises:
      UserError: it is no folder.
    """
    path = config.macro("DATA_DIR", None)
    if path is None:
        return None
    if not isinstance(path, str) or not os.path.isdir(os.path.expanduser(path)):
        raise UserError(f"DATA_DIR={path!r}: no such folder; give the one that holds the datasets")
    return os.path.expanduser(path)


def bad_data() -> str:
    """BAD_DATA: whether a bad record stops a run ("stop") or is counted and left out ("skip").

    Raises:
      UserError: neither.
    """
    policy = config.macro("BAD_DATA", POLICIES[0])
    if policy not in POLICIES:
        raise UserError(f"BAD_DATA={policy!r} is none of {', '.join(POLICIES)}")
    return policy


def json_lines(path: str) -> Iterator[tuple[int, Any]]:
    """Line number and value of each line of JSON; a `BadRecord` in place of a value that is none.

    Raises:
      UserError: the file cannot be read.
    """
    for number, line in local_files.raw_lines(path):
        try:
            text = local_files.decode(path, number, line)
            if text.strip():
                yield number, json.loads(text)
        except UserError as error:
            yield number, BadRecord(str(error).removeprefix(f"{path}:{number}: "))
        except (ValueError, RecursionError) as error:
            yield number, BadRecord(f"not JSON: {error}")


class OfficialSource(IndexedSource):
    """Examples of a dataset, from DATA_DIR where gin sets it, else from TFDS.

    Args:
      tfds_name: TFDS's name of the dataset, with config and version.
      files: split -> path under DATA_DIR.
      examples: function from the value of a line of JSON to the examples in it, as TFDS's builder
        has them; what it raises of KeyError, ValueError and the like is told as a bad record.
    """

    def __init__(
        self, tfds_name: str, files: Mapping[str, str], examples: Callable[[Any], Iterator[dict]]
    ):
        self.tfds_name = tfds_name
        self.files = dict(files)
        self._examples = examples
        self._tfds = seqio.TfdsDataSource(tfds_name, splits=list(files))
        super().__init__(splits=tuple(files))

    @property
    def splits(self) -> tuple[str, ...]:
        """Of the files that are there; all of them without DATA_DIR."""
        folder = data_dir()
        if folder is None:
            return tuple(self.files)
        there = [s for s, file in self.files.items() if os.path.isfile(os.path.join(folder, file))]
        return tuple(there or self.files)

    @property
    def features(self) -> tfds.features.FeaturesDict:
        """TFDS's, by which examples are encoded."""
        return _features(self.tfds_name)

    def path(self, split: str) -> str | None:
        """The file of a split, None without DATA_DIR.

        Raises:
          UserError: it is not there.
        """
        folder = data_dir()
        if folder is None:
            return None
        path = os.path.join(folder, self.files[split])
        if not os.path.isfile(path):
            raise UserError(
                f"{path}: no such file; DATA_DIR is to hold {self.files[split]}, of "
                f"{self.tfds_name}"
            )
        return path

    def prepare(self) -> None:
        """Reads the local files whole, so that what is wrong in them is told at once."""
        if data_dir() is not None:
            for split in self.splits:
                self.examples(split)

    def examples(self, split: str) -> list[dict]:
        """The examples of a split of local files, encoded."""
        path = self.path(split)
        stat = os.stat(path)
        return _read(self, path, bad_data(), stat.st_size, stat.st_mtime_ns)

    def num_input_examples(self, split: str) -> int | None:
        """Number of examples of a split."""
        if data_dir() is None:
            return self._tfds.num_input_examples(split)
        return len(self.examples(split))

    def list_shards(self, split: str) -> list[str]:
        """One of a local file: examples are shared out."""
        if data_dir() is None:
            return list(self._tfds.list_shards(split))
        return super().list_shards(split)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Of local files."""
        return data_dir() is not None

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused):
        """As SeqIO's."""
        if data_dir() is None:
            return self._tfds.get_dataset(split, shuffle, seed, shard_info)
        return super().get_dataset(split, shuffle, seed, shard_info)

    def look_up(self, split: str) -> Callable[[tf.Tensor], dict]:
        """Function from an example's number to its tensors."""
        examples, spec = self.examples(split), self.features.get_tensor_spec()
        flat = tf.nest.flatten(spec)

        def values(number):
            found = _leaves(spec, examples[number])
            return [_array(value, s.dtype) for value, s in zip(found, flat, strict=True)]

        def tensors(number):
            found = tf.numpy_function(values, [number], [s.dtype for s in flat], stateful=False)
            shaped = [tf.ensure_shape(v, s.shape) for v, s in zip(found, flat, strict=True)]
            return tf.nest.pack_sequence_as(spec, shaped)

        return tensors

    def encoded(self, path: str, policy: str) -> list[dict]:
        """The examples of a file; says how many records were left out.

        Raises:
          UserError: a bad record and `policy` is "stop", naming file and line; or no good one.
        """
        found, bad = [], []
        for number, record in json_lines(path):
            try:
                found += self._encode(record)
            except BadRecord as error:
                told = f"{path}:{number}: {error}"
                if policy == "stop":
                    raise UserError(
                        f"{told}; mend or drop it, or set BAD_DATA='skip' to leave such out"
                    ) from error
                bad.append(told)
        if bad:
            print(f"{path}: {len(bad)} records left out (BAD_DATA='skip'), the first: {bad[0]}")
        if not found:
            raise UserError(f"{path}: no example in it")
        return found

    def _encode(self, record) -> list[dict]:
        if isinstance(record, BadRecord):
            raise record
        try:
            return [self.features.encode_example(e) for e in self._examples(record)]
        except KeyError as error:
            raise BadRecord(f"no field {error}") from error
        except (ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            # TFDS names the feature in one line and the value in the next.
            raise BadRecord(" ".join(str(error).split()).removeprefix("KeyError: ")) from error


def _leaves(spec, value) -> list:
    """The values of a nest in the order of `tf.nest.flatten`, sequences whole."""
    if not isinstance(spec, dict):
        return [value]
    return [leaf for key in sorted(spec) for leaf in _leaves(spec[key], value[key])]


def _array(value, dtype: tf.DType) -> np.ndarray:
    if dtype != tf.string:
        return np.asarray(value, dtype.as_numpy_dtype)
    # TFDS encodes a sequence of texts as an array of arrays.
    values = np.asarray(value, object)
    return values if not values.ndim else np.array([str(v) for v in values], object)


@functools.cache
def _features(tfds_name: str) -> tfds.features.FeaturesDict:
    return tfds.builder(tfds_name).info.features


@functools.lru_cache(maxsize=64)
def _read(source: OfficialSource, path: str, policy: str, size: int, modified: int) -> list[dict]:
    """Reads a file once; size and time tell when it has changed."""
    return source.encoded(path, policy)
