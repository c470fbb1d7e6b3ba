"""A SeqIO task whose targets are part of its inputs, as a user's own module would register it."""

from pathlib import Path

import seqio
import tensorflow as tf
from t5.evaluation import metrics

VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
NUM_VALIDATION = 11


def _examples(split, shuffle_files, seed=None):
    count = {"train": 40, "validation": NUM_VALIDATION}[split]
    words = ["abcdefgh"[i % 8] * (1 + i % 5) for i in range(count)]
    return tf.data.Dataset.from_tensor_slices(
        {"inputs": [f"{w}." for w in words], "targets": words}
    )


for _name in ("toy_copy", "toy_copy_too"):
    seqio.TaskRegistry.add(
        _name,
        source=seqio.FunctionDataSource(_examples, ["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={k: seqio.Feature(VOCABULARY) for k in ("inputs", "targets")},
        metric_fns=[metrics.accuracy],
    )


def _copied(dataset):
    return dataset.map(lambda line: {"inputs": tf.strings.join([line, "."]), "targets": line})


# Of several files, which hosts share; their lines begin with a letter of their own each.
_FILES = str(Path(__file__).parent / "toy_text/train-*.txt")
seqio.TaskRegistry.add(
    "toy_files",
    source=seqio.TextLineDataSource({"train": _FILES, "validation": _FILES}),
    preprocessors=[
        _copied,
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={k: seqio.Feature(VOCABULARY) for k in ("inputs", "targets")},
    metric_fns=[metrics.accuracy],
)
seqio.MixtureRegistry.add("toy_mixture", [("toy_copy", 1.0), ("toy_copy_too", 1.0)])
