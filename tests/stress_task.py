"""A mixture whose examples come slowly, so that a run waits for them."""

import seqio
import tensorflow as tf
from tensorflow.python.data.experimental.ops.testing import sleep

VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
MICROSECONDS = 2_000


def _examples(split, shuffle_files=False, seed=None, *, first):
    count = {"train": 300, "validation": 16}[split]
    words = [f"{first}{i:03d}" * (1 + i % 4) for i in range(count)]
    texts = tf.data.Dataset.from_tensor_slices({"inputs": words, "targets": words})
    return texts.apply(sleep(MICROSECONDS))


def _add(name, first):
    def read(split, shuffle_files=False, seed=None):
        return _examples(split, first=first)

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, ["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={k: seqio.Feature(VOCABULARY) for k in ("inputs", "targets")},
    )


_add("stress_one", "a")
_add("stress_two", "b")
seqio.MixtureRegistry.add("stress_mixture", [("stress_one", 2.0), ("stress_two", 1.0)])
