"""What a model answered to each example of a split, as JSON lines."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from switch_tf import runtime, storage

_TYPES = seqio.metrics.ModelOutputType


def write(
    folder: str, task: seqio.Task, examples: Iterable[Mapping], outputs: Mapping[_TYPES, Sequence]
) -> None:
    """Writes `<task>.jsonl` in a folder: a line for each example, in their order.

    Args:
      folder: created if it does not exist.
      task, examples, outputs: see `records`.

    Raises:
      UserError: the file cannot be written.
    """
    if not runtime.is_chief():
        return
    lines = [json.dumps(found, ensure_ascii=False) for found in records(task, examples, outputs)]
    path = os.path.join(folder, f"{task.name}.jsonl")
    with storage.told(f"cannot write '{path}'"):
        storage.make_folder(folder)
        storage.write_atomically(path, "".join(f"{line}\n" for line in lines))


def records(
    task: seqio.Task, examples: Iterable[Mapping], outputs: Mapping[_TYPES, Sequence]
) -> Iterator[dict[str, Any]]:
    """Yields `inputs`, `targets`, and `prediction` as texts, or `score`, of each example.

    Args:
      task: the task.
      examples: its features, as host arrays, and its texts where its preprocessors keep them.
      outputs: what SeqIO's evaluator returns: the decoded tokens, or the log-likelihoods of the
        targets, of each example.
    """
    vocabularies = {name: task.output_features[name].vocabulary for name in ("inputs", "targets")}
    for number, example in enumerate(examples):
        found = {name: _text(example, name, vocabularies[name]) for name in vocabularies}
        if _TYPES.PREDICTION in outputs:
            tokens = outputs[_TYPES.PREDICTION][number]
            found["prediction"] = vocabularies["targets"].decode([int(token) for token in tokens])
        if _TYPES.SCORE in outputs:
            found["score"] = float(outputs[_TYPES.SCORE][number])
        yield found


def _text(example: Mapping, name: str, vocabulary: seqio.Vocabulary) -> str:
    text = example.get(f"{name}_pretokenized")
    # Of several texts, such as targets that are all right, the model was shown the tokens alone.
    if isinstance(text, bytes):
        return text.decode()
    return vocabulary.decode([int(token) for token in np.ravel(example[name])])
