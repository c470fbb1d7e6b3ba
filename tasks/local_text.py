"""The pre-training objective over the user's own files: `local_text_span_corruption`.

    --gin.local_text.train="'data/c4-train.*.json.gz'"
    --gin.local_text.validation="'data/c4-validation.*.json.gz'"
    --gin.local_text.vocabulary="'data/vocabulary.model'"

`tasks.local_files.documents` says what the files hold.
"""

import functools
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import gin
import seqio
import tensorflow as tf
from t5.data import preprocessors as t5_preprocessors

from switch_tf.errors import UserError
from tasks import local_files, preprocessors, vocabulary

TASK = "local_text_span_corruption"
SPLITS = ("train", "validation")
# The blanks of `str.strip`, as a regular expression of TensorFlow: its `\s` is ASCII's.
_BLANK = r"[\s\v\x1c-\x1f\x{85}\p{Z}]"


@gin.configurable("local_text")
def settings(
    train: str | Sequence[str] = (),
    validation: str | Sequence[str] = (),
    vocabulary: str | None = None,
) -> dict:
    """The user's files.

    Args:
      train: pattern, or patterns, of paths; `**` stands for any folders.
      validation: the same for the validation split.
      vocabulary: path of a SentencePiece model, made as T5's.

    Returns:
      The arguments by name, patterns as lists.

    Raises:
      UserError: what should be a path is no string.
    """
    patterns = {"train": train, "validation": validation}
    lists = {k: list(v) if isinstance(v, list | tuple) else [v] for k, v in patterns.items()}
    for name, values in (lists | {"vocabulary": [vocabulary or ""]}).items():
        for value in values:
            if not isinstance(value, str):
                raise UserError(f"local_text.{name}={value!r}: give a path in quotes")
    return lists | {"vocabulary": vocabulary}


def files(split: str) -> list[str]:
    """The files of a split, sorted.

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
        paths = glob.glob(os.path.expanduser(pattern), recursive=True)
        matches = {path for path in paths if os.path.isfile(path)}
        if not matches:
            raise UserError(
                f"local_text.{split}='{pattern}' matches no file, seen from {Path.cwd()}"
            )
        found |= matches
    return sorted(found)


def vocabulary_path() -> str:
    """The SentencePiece model that gin names.

    Raises:
      UserError: none is named, or it does not exist; says how to train one.
    """
    path = settings()["vocabulary"]
    how = (
        f"; to train one: switch-tf tasks {TASK} --train_vocabulary=8000 "
        "--gin.local_text.train=\"'FILES'\" --gin.local_text.vocabulary=\"'PATH'\""
    )
    if not path:
        raise UserError("local_text.vocabulary is not set: give the path of a vocabulary" + how)
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise UserError(f"local_text.vocabulary='{path}': no such file" + how)
    return path


def train_vocabulary(size: int) -> Path:
    """Trains a vocabulary of `size` pieces on the train files; writes it where gin says.

    Raises:
      UserError: no path is set, or it cannot be written, or there is such a file; no files, or too
        little text in them; a size below 1.
    """
    if size < 1:
        raise UserError(f"no vocabulary has {size} pieces: give a number, such as 8000")
    path = settings()["vocabulary"]
    if not path:
        raise UserError(
            "local_text.vocabulary is not set: give --gin.local_text.vocabulary=\"'PATH'\", "
            "where to write it"
        )
    path = Path(path).expanduser()
    if path.exists():
        raise UserError(f"local_text.vocabulary='{path}' exists: name another path, or remove it")
    paths = files("train")
    local_files.check(paths)
    try:
        vocabulary.train(_sample(paths), path, size)
    except OSError as error:
        raise UserError(
            f"local_text.vocabulary='{path}' cannot be written: {error.strerror or error}"
        ) from error
    return path


def _sample(paths: Sequence[str]) -> Iterator[str]:
    """Documents from the start of each file, the same number of characters of each."""
    share = vocabulary.TRAINING_CHARACTERS // len(paths) + 1
    for path in paths:
        left = share
        for text in local_files.documents(path):
            yield text[:left]
            left -= len(text)
            if left <= 0:
                break


def _read(path: tf.Tensor) -> tf.data.Dataset:
    """`local_files.documents` of a file, as a dataset whose position a checkpoint holds.

    A Python generator would be shorter, but its position is lost with the process.
    """
    compressed = tf.strings.regex_full_match(path, r".*\.gz")
    is_json = tf.strings.regex_full_match(path, r".*\.jsonl?(\.gz)?")
    lines = tf.data.TextLineDataset(path, tf.where(compressed, "GZIP", ""))
    ends = f"^{_BLANK}+|{_BLANK}+$"
    # A blank line closes the last block.
    lines = lines.concatenate(tf.data.Dataset.from_tensors("")).enumerate(1)

    def text_of_line(block, number, line):
        text = tf.numpy_function(_text_of_line, (path, number, line), tf.string, stateful=False)
        return block, tf.ensure_shape(text, ())

    def close_block(block, number, line):
        # A byte order mark, as some editors write it.
        line = tf.cond(
            number == 1, lambda: tf.strings.regex_replace(line, "^\ufeff", ""), lambda: line
        )
        blank = tf.strings.regex_full_match(line, _BLANK + "*")
        block = tf.where(blank, block, tf.strings.join([block, line, "\n"]))
        length = tf.strings.length(block, unit="UTF8_CHAR")
        closed = tf.logical_or(blank, length >= local_files.MAX_CHARACTERS)
        text = tf.cond(closed, lambda: tf.strings.regex_replace(block, ends, ""), lambda: "")
        return tf.where(closed, "", block), text

    def step(block, numbered):
        number, line = numbered
        return tf.cond(
            is_json,
            lambda: text_of_line(block, number, line),
            lambda: close_block(block, number, line),
        )

    texts = lines.scan(tf.constant(""), step)
    return texts.filter(lambda text: text != "").map(lambda text: {"text": text})


def _text_of_line(path: bytes, number: int, line: bytes) -> bytes:
    name = path.decode()
    return local_files.text_of_line(name, number, local_files.decode(name, number, line)).encode()


class LocalSource(seqio.FileDataSource):
    """Files that gin names when they are first read."""

    def __init__(self):
        super().__init__(_read, dict.fromkeys(SPLITS, ""))

    def list_shards(self, split: str) -> list[str]:
        """The files of a split, after a check of them.

        Raises:
          UserError: as `files`, `local_files.check`.
        """
        paths = files(split)
        local_files.check(paths)
        return paths

    def get_dataset(self, split: str = "train", *args, **kwargs) -> tf.data.Dataset:
        """As SeqIO's."""
        options = tf.data.Options()
        # Python parses JSON, which keeps no state that a checkpoint of the iterator would miss.
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        return super().get_dataset(split, *args, **kwargs).with_options(options)

    def prepare(self) -> None:
        """Checks the files that gin names; the train files must be named."""
        for split in SPLITS:
            if split == "train" or settings()[split]:
                self.list_shards(split)


VOCABULARY = vocabulary.LazyVocabulary(vocabulary_path)

seqio.TaskRegistry.add(
    TASK,
    source=LocalSource(),
    preprocessors=[
        functools.partial(t5_preprocessors.rekey, key_map={"inputs": None, "targets": "text"}),
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        preprocessors.span_corruption,
        seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={
        "inputs": seqio.Feature(vocabulary=VOCABULARY, add_eos=True, required=False),
        "targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
    },
    metric_fns=[],
)
