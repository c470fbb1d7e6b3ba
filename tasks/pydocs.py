"""SeqIO tasks on the docstrings of the installed packages: real text that needs no network.

`pydocs_span_corruption` is for pre-training; `pydocs_finetune` mixes four supervised tasks. The
corpus is parsed, and its vocabulary trained, when first used; `registry.prepare` does so at once.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
import seqio
import tensorflow as tf
from t5.data import postprocessors
from t5.data import preprocessors as t5_preprocessors
from t5.evaluation import metrics

from switch_tf.tasks.docstrings import corpus as pydocs_corpus
from switch_tf.tasks.docstrings import examples as pydocs_examples
from switch_tf.tasks.parts import pretraining, supervised
from switch_tf.tasks.parts.rouge import rouge
from switch_tf.tasks.sources.indexed import IndexedSource
from switch_tf.tasks.vocabulary.t5 import LazyVocabulary

# Greedy decoding of more would take the quickstart's time, and tell little more.
_MAX_VALIDATION = 400
# Constant answers tried for the chance level of ROUGE.
_CONSTANT_SUMMARIES = 20


@functools.lru_cache
def _columns(task: str, split: str, folder: object) -> dict[str, np.ndarray]:
    """Raw examples of a task, column by column; `folder` tells one corpus from another."""
    documents = pydocs_corpus.documents(split)
    if task == "pydocs_span_corruption":
        rows = [{"text": d.text} for d in documents]
    else:
        rows = pydocs_examples.MAKERS[task](documents)
        if split == "validation":
            rows = [row for row in rows if row["idx"] < _MAX_VALIDATION]
        else:
            # A wrong choice is nothing to learn to write.
            rows = [row for row in rows if row.get("is_correct", True)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    # Python strings would make an array in which each takes the room of the longest.
    return {
        name: np.array([v.encode() for v in values], object)
        if isinstance(values[0], str)
        else np.array(values, np.int64)
        for name, values in columns.items()
    }


class PydocsSource(IndexedSource):
    """Raw examples of a task of this module.

    Args:
      task: name of the task.
    """

    def __init__(self, task: str):
        super().__init__(splits=pydocs_corpus.SPLITS)
        self._task = task

    def num_input_examples(self, split: str) -> int:
        """Number of examples of a split; parses the packages if no one did before."""
        return len(next(iter(self.columns(split).values())))

    def prepare(self) -> None:
        """Makes the corpus, with a progress bar, unless it is there."""
        pydocs_corpus.prepare()

    def describe(self) -> str:
        """What the corpus is made of."""
        return "installed packages"

    def missing(self) -> None:
        """Nothing: what it is made of is installed."""

    def columns(self, split: str) -> Mapping[str, np.ndarray]:
        """Raw examples of a split: column -> values."""
        return _columns(self._task, split, pydocs_corpus.prepare())

    def look_up(self, split: str) -> Callable[[tf.Tensor], dict]:
        """Function from an example's number to its tensors."""
        columns = {name: tf.constant(values) for name, values in self.columns(split).items()}
        return lambda number: {name: values[number] for name, values in columns.items()}


VOCABULARY = LazyVocabulary(pydocs_corpus.vocabulary_path)
OUTPUT_FEATURES = {
    # `required=False`: span corruption makes the inputs from the targets.
    "inputs": seqio.Feature(vocabulary=VOCABULARY, add_eos=True, required=False),
    "targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
}

pretraining.add("pydocs_span_corruption", PydocsSource("pydocs_span_corruption"), OUTPUT_FEATURES)


def _add_supervised(name: str, to_text, postprocess_fn, metric_fns) -> None:
    source = PydocsSource(name)
    supervised.add(name, source, to_text, metric_fns, postprocess_fn, OUTPUT_FEATURES)


def _question(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A text as inputs and a choice as targets, in the form of t5's `rank_classification`."""

    def form(example):
        return {
            "inputs": tf.strings.join(["pydocs_copa text: ", example["text"]]),
            "targets": example["choice"],
            "is_correct": example["is_correct"],
            "idx": tf.stack([example["idx"], example["choice_idx"]]),
        }

    return dataset.map(form, num_parallel_calls=tf.data.AUTOTUNE)


def rank_accuracy(targets, scores):
    """`accuracy` of the likeliest choices; SeqIO tells by the argument `scores` that it ranks."""
    return metrics.rank_classification(targets, scores, normalize_by_target_length=True)


# The choice that is the likelier answer a token. Small models learn to write summaries long before
# they learn to compare two of them in their input.
_add_supervised(
    "pydocs_copa",
    _question,
    postprocessors.rank_classification,
    [rank_accuracy],
)
for _name, _labels in pydocs_examples.LABEL_NAMES.items():
    # The form of T5's SuperGLUE tasks: "pydocs_rte summary: ... text: ...".
    _add_supervised(
        _name,
        functools.partial(t5_preprocessors.glue, benchmark_name=_name, label_names=list(_labels)),
        functools.partial(postprocessors.string_label_to_class_id, label_classes=list(_labels)),
        [metrics.accuracy],
    )
_add_supervised(
    "pydocs_summary",
    functools.partial(t5_preprocessors.summarize, article_key="text", summary_key="summary"),
    None,
    [rouge],
)

FINETUNE_TASKS = tuple(pydocs_examples.MAKERS)
# To compare two texts is learnt slower than the rest, and each such example tells one bit.
_RATES = {"pydocs_copa": 1.0, "pydocs_rte": 4.0, "pydocs_library": 0.5, "pydocs_summary": 1.0}
seqio.MixtureRegistry.add("pydocs_finetune", list(_RATES.items()))


def chance_levels() -> dict[str, dict[str, float]]:
    """What a model that never looks at its input can reach, in percent: task -> metric -> level.

    For accuracy, the share of the most frequent class of the validation set. For ROUGE, the best
    figure of one constant answer, out of some train summaries, and of another document's summary.
    """
    right = seqio.TaskRegistry.get("pydocs_copa").source.columns("validation")["is_correct"]
    levels = {"pydocs_copa": {"accuracy": float(100 * right.mean())}}
    for name in pydocs_examples.LABEL_NAMES:
        labels = seqio.TaskRegistry.get(name).source.columns("validation")["label"]
        levels[name] = {"accuracy": float(100 * np.bincount(labels).max() / len(labels))}
    source = seqio.TaskRegistry.get("pydocs_summary").source
    targets = [text.decode() for text in source.columns("validation")["summary"]]
    constants = source.columns("train")["summary"][:_CONSTANT_SUMMARIES]
    answers = [[text.decode()] * len(targets) for text in constants]
    answers.append(targets[1:] + targets[:1])
    scores = [rouge(targets, answer) for answer in answers]
    levels["pydocs_summary"] = {
        key: float(max(score[key] for score in scores)) for key in scores[0]
    }
    return levels
