"""SeqIO tasks on the docstrings of installed packages: real text without network access.

`pydocs_span_corruption` is for pre-training; `pydocs_finetune` mixes four supervised tasks. At
first use, the corpus is parsed and its vocabulary trained; `registry.prepare` does both in advance.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
import seqio
import tensorflow as tf
from t5.data import postprocessors
from t5.data import preprocessors as t5_preprocessors
from t5.evaluation import metrics

from switch_tf.tasks.docstrings import corpus, examples
from switch_tf.tasks.parts import pretraining, supervised
from switch_tf.tasks.parts.rouge import rouge
from switch_tf.tasks.sources.indexed import IndexedSource
from switch_tf.tasks.vocabulary.t5 import LazyVocabulary

# More examples would slow the quickstart's greedy decoding and add little precision.
_MAX_VALIDATION = 400
# Number of constant answers tried for the chance level of ROUGE.
_CONSTANT_SUMMARIES = 20


@functools.lru_cache
def _columns(task: str, split: str, folder: object) -> dict[str, np.ndarray]:
    """The raw examples of a task, column by column; `folder` distinguishes corpora in the cache."""
    documents = corpus.documents(split)
    if task == "pydocs_span_corruption":
        rows = [{"text": d.text} for d in documents]
    else:
        rows = examples.MAKERS[task](documents)
        if split == "validation":
            rows = [row for row in rows if row["idx"] < _MAX_VALIDATION]
        else:
            # A model must not learn to write wrong choices.
            rows = [row for row in rows if row.get("is_correct", True)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    # A NumPy array of strings would pad each to the length of the longest.
    return {
        name: np.array([v.encode() for v in values], object)
        if isinstance(values[0], str)
        else np.array(values, np.int64)
        for name, values in columns.items()
    }


class PydocsSource(IndexedSource):
    """The raw examples of a task of this module.

    Args:
      task: the name of the task.
    """

    def __init__(self, task: str):
        super().__init__(splits=corpus.SPLITS)
        self._task = task

    def num_input_examples(self, split: str) -> int:
        """Number of examples in a split; parses the packages if needed."""
        return len(next(iter(self.columns(split).values())))

    def prepare(self) -> None:
        """Builds the corpus, with a progress bar, unless it exists."""
        corpus.prepare()

    def describe(self) -> str:
        """Describes what the corpus is made from."""
        return "installed packages"

    def missing(self) -> None:
        """Returns None, because the packages are installed."""

    def columns(self, split: str) -> Mapping[str, np.ndarray]:
        """The raw examples of a split: column -> values."""
        return _columns(self._task, split, corpus.prepare())

    def look_up(self, split: str) -> Callable[[tf.Tensor], dict]:
        """Returns a function from an example's number to its tensors."""
        columns = {name: tf.constant(values) for name, values in self.columns(split).items()}
        return lambda number: {name: values[number] for name, values in columns.items()}


VOCABULARY = LazyVocabulary(corpus.vocabulary_path)
OUTPUT_FEATURES = {
    # `required=False`, because span corruption makes the inputs from the targets.
    "inputs": seqio.Feature(vocabulary=VOCABULARY, add_eos=True, required=False),
    "targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
}

pretraining.add("pydocs_span_corruption", PydocsSource("pydocs_span_corruption"), OUTPUT_FEATURES)


def _add_supervised(name: str, to_text, postprocess_fn, metric_fns) -> None:
    source = PydocsSource(name)
    supervised.add(name, source, to_text, metric_fns, postprocess_fn, OUTPUT_FEATURES)


def _question(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Formats a text as inputs and a choice as targets, as in T5's `rank_classification`."""

    def form(example):
        return {
            "inputs": tf.strings.join(["pydocs_copa text: ", example["text"]]),
            "targets": example["choice"],
            "is_correct": example["is_correct"],
            "idx": tf.stack([example["idx"], example["choice_idx"]]),
        }

    return dataset.map(form, num_parallel_calls=tf.data.AUTOTUNE)


def rank_accuracy(targets, scores):
    """The `accuracy` of the likeliest choices; its argument `scores` makes SeqIO rank choices."""
    return metrics.rank_classification(targets, scores, normalize_by_target_length=True)


# Picks the choice with the higher likelihood per token. Small models learn to write summaries long
# before they learn to compare two of them in their input.
_add_supervised(
    "pydocs_copa",
    _question,
    postprocessors.rank_classification,
    [rank_accuracy],
)
for _name, _labels in examples.LABEL_NAMES.items():
    # In the form of T5's SuperGLUE tasks: "pydocs_rte summary: ... text: ...".
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

# RTE has the highest rate, because comparing two texts is learnt slowly and each example gives only
# one bit.
_RATES = {"pydocs_copa": 1.0, "pydocs_rte": 4.0, "pydocs_library": 0.5, "pydocs_summary": 2.0}
seqio.MixtureRegistry.add("pydocs_finetune", list(_RATES.items()))


def chance_levels() -> dict[str, dict[str, float]]:
    """The best scores of a model that ignores its input, in percent: task -> metric -> level.

    For accuracy, this is the share of the validation set's most frequent class. For ROUGE, it is
    the best score among constant answers, taken from train summaries, and shuffled summaries.
    """
    right = seqio.TaskRegistry.get("pydocs_copa").source.columns("validation")["is_correct"]
    levels = {"pydocs_copa": {"accuracy": float(100 * right.mean())}}
    for name in examples.LABEL_NAMES:
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
