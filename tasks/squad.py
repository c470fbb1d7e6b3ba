"""SQuAD 1.1 for fine-tuning as in T5 and the paper: task `squad`.

Reads TFDS, or squad/train-v1.1.json and squad/dev-v1.1.json under DATA_DIR. Preprocessor and
metrics are T5's, over all answers to a question.
"""

from collections.abc import Iterator

from t5.data import postprocessors, preprocessors
from t5.evaluation import metrics

from switch_tf.tasks.parts import catalogue, supervised
from switch_tf.tasks.sources import formats
from switch_tf.tasks.sources.formats import BadRecord, Records
from switch_tf.tasks.sources.official import OfficialSource


def _questions(squad, path: str) -> Records:
    """Yields the questions of all paragraphs; repeated ids are merged, with all their answers."""
    found: dict[str, tuple[str, dict]] = {}
    for article_place, article in formats.items(squad, "data", path, "article"):
        for part_place, part in formats.items(article, "paragraphs", article_place, "paragraph"):
            for place, question in formats.items(part, "qas", part_place, "question"):
                try:
                    record = _record(article, part, question)
                except BadRecord as error:
                    yield place, error
                    continue
                first = found.setdefault(record["id"], (place, record))[1]
                if first is not record:
                    first["answers"] += record["answers"]
    yield from found.values()


def _record(article: dict, paragraph: dict, question) -> dict:
    if isinstance(question, BadRecord):
        raise question
    try:
        return {
            "id": str(question["id"]),
            "title": article.get("title", ""),
            "context": paragraph["context"],
            "question": question["question"],
            "answers": list(question["answers"]),
        }
    except KeyError as error:
        raise BadRecord(f"no field {error}") from error
    except TypeError as error:
        raise BadRecord(str(error)) from error


def _example(question: dict) -> Iterator[dict]:
    answers = question["answers"]
    if not answers:
        raise BadRecord("no label or answer")
    columns = {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}
    yield question | {"answers": columns}


def source() -> OfficialSource:
    """Makes a source with the examples of TFDS's `squad/v1.1`."""
    return OfficialSource(
        "squad/v1.1:3.0.0",
        {"train": "squad/train-v1.1.json", "validation": "squad/dev-v1.1.json"},
        _example,
        form=lambda files: formats.json_document(files, _questions),
    )


supervised.add(
    "squad",
    source(),
    preprocessors.squad,
    metric_fns=[metrics.squad],
    postprocess_fn=postprocessors.qa,
)
catalogue.add("squad", paper_table="Tables 4 and 5", metric="exact match")
