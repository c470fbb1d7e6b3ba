"""Closed-book question answering, without a text to read, as in T5.

The tasks `natural_questions_open`, `web_questions` and `trivia_qa_open` read TFDS or, under
DATA_DIR, nq_open/NQ-open.train.jsonl, web_questions/webquestions.examples.train.json,
triviaqa-unfiltered/unfiltered-web-train.json and so on. Splits and text follow Roberts et al. 2020,
section 3 (google-research/t5_closed_book_qa): `validation` is the end of the training part, and
`test` is what is published for evaluation. Training uses the first answer; evaluation accepts any:

    inputs: "nq question: who wrote hamlet", targets: "William Shakespeare".
"""

import functools
import re
from collections.abc import Iterator

import seqio
from t5.data import postprocessors
from t5.evaluation import metrics

from switch_tf.tasks.parts import catalogue, supervised
from switch_tf.tasks.sources import formats
from switch_tf.tasks.sources.formats import BadRecord, Records, SplitFiles
from switch_tf.tasks.sources.official import OfficialSource

# The answers in a Freebase query, quoted or as a single word.
_DESCRIPTION = re.compile(r'\(description (?:"([^"]+?)"|([^)]+?))\)\w*')
# The lines that open and close a record in TriviaQA's files.
_OPENS, _CLOSES = "        {\n", "        }"


@seqio.map_over_dataset
def to_text(x, prefix, answers):
    """Formats a question and its first answer, with all answers for the metric.

    Args:
      x: an example.
      prefix: the start of the inputs.
      answers: returns an example's first answer and all its answers.
    """
    first, every = answers(x)
    return {"inputs": prefix + " " + x["question"], "targets": first, "answers": every}


def _answer_list(row: dict, key: str) -> list[str]:
    if not isinstance(row[key], list) or not row[key]:
        raise BadRecord(f"no list of answers in {key!r}")
    return row[key]


def _natural_question(row: dict) -> Iterator[dict]:
    yield {"question": row["question"], "answer": _answer_list(row, "answer")}


def _web_question(row: dict) -> Iterator[dict]:
    target = re.sub(r"^\(list |\)$", "", row["targetValue"])
    answers = [quoted or word for quoted, word in _DESCRIPTION.findall(target)]
    if not answers:
        raise BadRecord("no answer in 'targetValue'")
    yield {"url": row["url"], "question": row["utterance"], "answers": answers}


def _trivia_questions(files: SplitFiles) -> Records:
    """Yields the records of a file too large for memory, delimited by its indentation."""
    place, texts, is_broken = None, [], False
    for number, line in formats.lines(files.path):
        if isinstance(line, BadRecord):
            yield f"{files.path}:{number}", line
            is_broken = True
        elif line == _OPENS:
            if texts:
                yield place, BadRecord("the record has no end")
            place, texts, is_broken = f"{files.path}:{number}", [line], False
        elif line.startswith(_CLOSES) and texts:
            if not is_broken:
                try:
                    yield place, formats.parse_json("".join(texts) + "}")
                except BadRecord as error:
                    yield place, error
            texts = []
        elif texts:
            texts.append(line)
    if texts:
        yield place, BadRecord("the record has no end")
    if place is None:
        yield files.path, BadRecord("no record; each must start with a line of 8 spaces and '{'")


def _trivia_question(row: dict) -> Iterator[dict]:
    answer = row["Answer"]
    lists = {"aliases": "Aliases", "normalized_aliases": "NormalizedAliases"}
    texts = {"normalized_value": "NormalizedValue", "type": "Type", "value": "Value"}
    optional = {
        "matched_wiki_entity_name": "MatchedWikiEntryName",
        "normalized_matched_wiki_entity_name": "NormalizedMatchedWikiEntryName",
    }
    # Without the pages and search results, as in TFDS's `nocontext`.
    pages = ("doc_source", "filename", "title", "wiki_context")
    results = ("description", "filename", "rank", "title", "url", "search_context")
    yield {
        "question": row["Question"].strip(),
        "question_id": row["QuestionId"],
        "question_source": row["QuestionSource"].strip(),
        "entity_pages": {name: [] for name in pages},
        "search_results": {name: [] for name in results},
        "answer": {
            name: [alias.strip() for alias in _answer_list(answer, key)]
            for name, key in lists.items()
        }
        | {name: answer[key].strip() for name, key in texts.items()}
        | {name: answer.get(key, "").strip() for name, key in optional.items()},
    }


def _splits(count: int, test: str) -> dict[str, str]:
    """T5's splits in TFDS's notation.

    The end of the published training part is held out to choose a checkpoint, so that it is not
    chosen by the test score, which is computed on the published evaluation part.

    Args:
      count: number of training examples.
      test: TFDS's name of the published evaluation part.
    """
    return {"train": f"train[:{count}]", "validation": f"train[{count}:]", "test": test}


def natural_questions_source(count: int = 79_168) -> OfficialSource:
    """Makes a source of TFDS's `natural_questions_open`, with `count` training examples."""
    names = {"train": "train", "validation": "train", "test": "dev"}
    return OfficialSource(
        "natural_questions_open:1.0.0",
        {split: f"nq_open/NQ-open.{name}.jsonl" for split, name in names.items()},
        _natural_question,
        tfds_splits=_splits(count, "validation"),
    )


def web_questions_source(count: int = 3_417) -> OfficialSource:
    """Makes a source of TFDS's `web_questions`, with `count` training examples."""
    names = {"train": "train", "validation": "train", "test": "test"}
    return OfficialSource(
        "web_questions:1.0.0",
        {
            split: f"web_questions/webquestions.examples.{name}.json"
            for split, name in names.items()
        },
        _web_question,
        form=functools.partial(
            formats.json_document,
            records=lambda rows, path: formats.items(rows, None, path, "question"),
        ),
        tfds_splits=_splits(count, "test"),
    )


def trivia_qa_source(count: int = 78_785) -> OfficialSource:
    """Makes a source of TFDS's `trivia_qa/unfiltered.nocontext`, with `count` training examples."""
    names = {"train": "train", "validation": "train", "test": "dev"}
    files = {split: f"unfiltered-web-{name}.json" for split, name in names.items()}
    return OfficialSource(
        "trivia_qa/unfiltered.nocontext:1.1.0",
        {split: f"triviaqa-unfiltered/{file}" for split, file in files.items()},
        _trivia_question,
        form=_trivia_questions,
        tfds_splits=_splits(count, "validation"),
        key=lambda number, example: f"{files['train']}_{example['question_id']}",
    )


def _in_list(name: str):
    return lambda x: (x[name][0], x[name])


for _name, _source, _prefix, _answers, _metric in (
    (
        "natural_questions_open",
        natural_questions_source(),
        "nq question:",
        _in_list("answer"),
        metrics.squad,
    ),
    ("web_questions", web_questions_source(), "wq question:", _in_list("answers"), metrics.squad),
    (
        "trivia_qa_open",
        trivia_qa_source(),
        "trivia_qa question:",
        lambda x: (x["answer"]["value"], x["answer"]["aliases"]),
        metrics.trivia_qa,
    ),
):
    supervised.add(
        _name,
        _source,
        functools.partial(to_text, prefix=_prefix, answers=_answers),
        metric_fns=[_metric],
        postprocess_fn=postprocessors.qa,
    )
    catalogue.add(_name, paper_table="Table 5", metric="exact match")
