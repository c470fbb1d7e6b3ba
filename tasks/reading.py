"""Inference, science questions and pronouns, for which the paper reports accuracy.

The tasks `anli_r1`, `anli_r2`, `anli_r3`, `arc_easy`, `arc_challenge` and `winogrande_xl` read TFDS
or the folders of the official zip files under DATA_DIR: anli_v1.0/R1/train.jsonl,
ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Train.jsonl, winogrande_1.1/train_xl.jsonl and so on. T5 defines
no text form for them. Here it follows T5's most similar tasks, MNLI and COPA, so that each answer
is one of a few fixed words; see `anli`, `arc` and `winogrande` for examples.
"""

import functools
from collections.abc import Iterator

import seqio
import tensorflow as tf
from t5.data import postprocessors
from t5.evaluation import metrics

from switch_tf.tasks.parts import catalogue, supervised
from switch_tf.tasks.sources.official import OfficialSource

_ANLI_LABELS = ("entailment", "neutral", "contradiction")
_LETTERS = ("A", "B", "C", "D", "E")
_OPTIONS = ("option1", "option2")


@seqio.map_over_dataset
def anli(x):
    """Formats a premise, which ANLI calls context, and a hypothesis like T5's MNLI.

    inputs: "anli hypothesis: It is wet. premise: It rains.", targets: "entailment".
    """
    texts = ["anli hypothesis:", x["hypothesis"], "premise:", x["context"]]
    return _example(texts, _ANLI_LABELS, x["label"])


@seqio.map_over_dataset
def arc(x, name):
    """Formats a question and its choices, labelled with letters.

    inputs: "arc_easy question: Which is solid? choices: (A) air (B) ice", targets: "B".

    Args:
      x: an example.
      name: the task's name, with which the inputs begin.
    """
    letters = tf.gather(_LETTERS, x["choices"]["label"])
    choices = tf.strings.join(["(", letters, ") ", x["choices"]["text"]])
    joined = tf.strings.reduce_join(choices, separator=" ")
    return _example(
        [f"{name} question:", x["question"], "choices:", joined], _LETTERS, x["answerKey"]
    )


@seqio.map_over_dataset
def winogrande(x):
    """Formats a sentence with a gap and two options, named like the choices of T5's COPA.

    inputs: "winogrande option1: cup option2: floor sentence: The _ broke.", targets: "option1".
    """
    texts = ["option1:", x["option1"], "option2:", x["option2"], "sentence:", x["sentence"]]
    return _example(["winogrande", *texts], _OPTIONS, x["label"])


def _example(texts, answers, label) -> dict:
    # The label is -1 in test parts without labels.
    answer = tf.cond(label < 0, lambda: "<unk>", lambda: tf.gather(answers, label))
    return {"inputs": tf.strings.join(texts, separator=" "), "targets": answer}


def _anli_rows(row: dict) -> Iterator[dict]:
    yield {name: row[name] for name in ("uid", "context", "hypothesis", "label")}


def _arc_rows(row: dict) -> Iterator[dict]:
    """The example of a row, with letters for choices that are numbered."""
    letters = {str(number): letter for number, letter in enumerate(_LETTERS, 1)}
    choices = row["question"]["choices"]
    labels = [choice["label"] for choice in choices]
    if row["answerKey"] not in labels:
        raise ValueError(f"answer {row['answerKey']!r} is not one of the choices")
    yield {
        "id": row["id"],
        "question": row["question"]["stem"],
        "choices": {
            "text": [choice["text"] for choice in choices],
            "label": [letters.get(label, label) for label in labels],
        },
        "answerKey": letters.get(row["answerKey"], row["answerKey"]),
    }


def _winogrande_rows(row: dict) -> Iterator[dict]:
    texts = {name: row[name] for name in ("sentence", "option1", "option2")}
    yield texts | {"label": row.get("answer", -1)}


def anli_source(number: int) -> OfficialSource:
    """Makes a source with the examples of a round of TFDS's `anli`."""
    names = {"train": "train", "validation": "dev", "test": "test"}
    files = {split: f"anli_v1.0/R{number}/{name}.jsonl" for split, name in names.items()}
    return OfficialSource(f"anli/r{number}:0.1.0", files, _anli_rows)


def arc_source(part: str) -> OfficialSource:
    """Makes a source with the examples of TFDS's `ai2_arc`; `part` is "Easy" or "Challenge"."""
    names = {"train": "Train", "validation": "Dev", "test": "Test"}
    folder = f"ARC-V1-Feb2018-2/ARC-{part}/ARC-{part}"
    files = {split: f"{folder}-{name}.jsonl" for split, name in names.items()}
    return OfficialSource(f"ai2_arc/ARC-{part}:1.0.0", files, _arc_rows)


def winogrande_source() -> OfficialSource:
    """Makes a source with the examples of TFDS's `winogrande`, with its largest train split."""
    names = {"train": "train_xl", "validation": "dev", "test": "test"}
    return OfficialSource(
        "winogrande:1.2.0",
        {split: f"winogrande_1.1/{name}.jsonl" for split, name in names.items()},
        _winogrande_rows,
        tfds_splits={"train": "train_xl"},
    )


def _add(name, source, to_text, answers, paper_table) -> None:
    supervised.add(
        name,
        source,
        to_text,
        metric_fns=[metrics.accuracy],
        postprocess_fn=functools.partial(
            postprocessors.string_label_to_class_id, label_classes=answers
        ),
    )
    catalogue.add(name, paper_table=paper_table, metric="accuracy")


for _number in (1, 2, 3):
    # The paper reports only the third round.
    _table = "Table 5" if _number == 3 else None
    _add(f"anli_r{_number}", anli_source(_number), anli, _ANLI_LABELS, _table)
for _part in ("Easy", "Challenge"):
    _name = f"arc_{_part.lower()}"
    _add(_name, arc_source(_part), functools.partial(arc, name=_name), _LETTERS, "Table 5")
_add("winogrande_xl", winogrande_source(), winogrande, _OPTIONS, "Table 5")
