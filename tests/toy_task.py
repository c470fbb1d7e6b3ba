"""A SeqIO task whose targets are part of its inputs, as a user's own module would register it."""

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
seqio.MixtureRegistry.add("toy_mixture", [("toy_copy", 1.0), ("toy_copy_too", 1.0)])
