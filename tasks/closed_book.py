"""Questions without a text to read, as T5 answers them: closed book.

Tasks `natural_questions_open`, `web_questions` and `trivia_qa_open`: from TFDS, or, under DATA_DIR,
from nq_open/NQ-open.train.jsonl, web_questions/webquestions.examples.train.json,
triviaqa-unfiltered/unfiltered-web-train.json and so on. Splits and text are those of Roberts et
al. 2020, section 3 (google-research/t5_closed_book_qa): the end of the train part is `validation`,
what is published for evaluation is `test`; the first answer is trained on, and any is right:

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

# Answers in a query to Freebase: quoted, or a word.
_DESCRIPTION = re.compile(r'\(description (?:"([^"]+?)"|([^)]+?))\)\w*')
# A record of TriviaQA's files lies between these lines.
_OPENS, _CLOSES = "        {\n", "        }"


@seqio.map_over_dataset
def to_text(x, prefix, answers):
    """A question, its first answer, and all of them for the metric.

    Args:
      x: an example.
      prefix: what the inputs begin with.
      answers: function from the example to its first answer and all answers.
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
    """The records of a file that is too large to be held, by how its lines are indented."""
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
        yield files.path, BadRecord("no record, each from a line of 8 spaces and '{' on")


def _trivia_question(row: dict) -> Iterator[dict]:
    answer = row["Answer"]
    lists = {"aliases": "Aliases", "normalized_aliases": "NormalizedAliases"}
    texts = {"normalized_value": "NormalizedValue", "type": "Type", "value": "Value"}
    optional = {
        "matched_wiki_entity_name": "MatchedWikiEntryName",
        "normalized_matched_wiki_entity_name": "NormalizedMatchedWikiEntryName",
    }
    # Without the pages and the results of the search, as TFDS's `nocontext`.
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
    """TFDS's names of T5's splits.

    The end of what is published for training is held out to choose a checkpoint by, so that it is
    not chosen by the figures of the test, which is what is published for evaluation.

    Args:
      count: how many examples are trained on.
      test: TFDS's name of what is published for evaluation.
    """
    return {"train": f"train[:{count}]", "validation": f"train[{count}:]", "test": test}


def natural_questions_source(count: int = 79_168) -> OfficialSource:
    """The examples of TFDS's `natural_questions_open`, of which `count` are trained on."""
    names = {"train": "train", "validation": "train", "test": "dev"}
    return OfficialSource(
        "natural_questions_open:1.0.0",
        {split: f"nq_open/NQ-open.{name}.jsonl" for split, name in names.items()},
        _natural_question,
        tfds_splits=_splits(count, "validation"),
    )


def web_questions_source(count: int = 3_417) -> OfficialSource:
    """The examples of TFDS's `web_questions`, of which `count` are trained on."""
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
    """The examples of TFDS's `trivia_qa/unfiltered.nocontext`, of which `count` are trained on."""
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
