"""What cannot be read in each form, told by its place."""

import dataclasses
import json
from collections.abc import Callable

import gin
import pytest

from switch_tf.errors import UserError
from switch_tf.tasks import closed_book, glue, reading, squad, summarization, super_glue
from switch_tf.tasks.sources import formats
from tests.tasks import official_files
from tests.tasks.official_files import CNN_URL, MAIL_URL, set_macros, story, write_file


@pytest.fixture(autouse=True)
def folder(tmp_path):
    set_macros(DATA_DIR=str(tmp_path))
    yield tmp_path
    gin.clear_config()


@dataclasses.dataclass
class Bad:
    """Files with one bad record.

    Args:
      source: of the dataset.
      files: path -> text, in Latin-1; the first is the train split's.
      told: the path that is named, and what is told of it.
      good: number of examples that are left; None where the whole file is lost.
    """

    source: Callable
    files: dict[str, str]
    told: str
    good: int | None = 1


ANLI = "anli_v1.0/R1/train.jsonl"
NQ = "nq_open/NQ-open.train.jsonl"
SST = "SST-2/train.tsv"
HEAD = "sentence\tlabel\nfine\t1\n"
SQUAD = "squad/train-v1.1.json"
TRIVIA = "triviaqa-unfiltered/unfiltered-web-train.json"
DPR = "definite_pronoun_resolution/train.c.txt"
DPR_GOOD = "Ann asked Bob if he can sing.\nhe\nAnn, Bob\nBob\n\n"
URLS = "cnn_dailymail/all_train.txt"
STORY = {story(CNN_URL): "It rained.\n\n@highlight\n\nRain\n", "dailymail/stories/x.story": ""}
XSUM = "xsum/bbc-summary-data"
XSUM_SPLITS = official_files.XSUM_SPLITS
XSUM_GOOD = {f"{XSUM}/1.summary": official_files.XSUM_OF_THE_AUTHORS}


def anli(row):
    good = official_files.JSON_LINES[ANLI][0]
    return {ANLI: f"{json.dumps(good)}\n\n{json.dumps(good | row)}\n"}


def questions(*rows):
    """A file of SQuAD with an article of a good paragraph and one of `rows`."""
    good = {"id": "0", "question": "q", "answers": [{"text": "a", "answer_start": 0}]}
    parts = [{"context": "a", "qas": [good]}, {"context": "a", "qas": [good | r for r in rows]}]
    return {SQUAD: json.dumps({"data": [{"title": "t", "paragraphs": parts}]})}


def urls(*found):
    return {URLS: "".join(f"{url}\n" for url in found)}


def xsum(*names):
    return {XSUM_SPLITS: json.dumps({"train": names})}


BAD = {
    "a label of JSON lines": Bad(
        lambda: reading.anli_source(1), anli({"label": "x"}), f"{ANLI}:3: In <ClassLabel> with name"
    ),
    "a field of JSON lines": Bad(
        closed_book.natural_questions_source,
        {NQ: '{"question": "q", "answer": ["a"]}\n{"question": "q"}\n'},
        f"{NQ}:2: no field 'answer'",
    ),
    "an answer of JSON lines": Bad(
        closed_book.natural_questions_source,
        {NQ: '{"question": "q", "answer": ["a"]}\n{"question": "q", "answer": []}\n'},
        f"{NQ}:2: no list of answers in 'answer'",
    ),
    "half of a surrogate pair": Bad(
        closed_book.natural_questions_source,
        {NQ: '{"question": "q", "answer": ["a"]}\n{"question": "\\ud800", "answer": ["a"]}\n'},
        f"{NQ}:2: half of a surrogate pair, such as \\ud800",
    ),
    "a document that is no JSON": Bad(
        squad.source, {SQUAD: '{"data": [\n'}, f"{SQUAD}: not JSON: Expecting value: line 2", None
    ),
    "a document of another form": Bad(
        squad.source, {SQUAD: '{"dota": []}'}, f"{SQUAD}: no list 'data'", None
    ),
    "a document in another encoding": Bad(
        squad.source, {SQUAD: '{\n"d\xe9'}, f"{SQUAD}:2: not UTF-8, at byte 3 of the line", None
    ),
    "a question without a field": Bad(
        squad.source,
        questions({"id": "1", "answers": [{"text": "a"}]}),
        f"{SQUAD}: article 1, paragraph 2, question 1: no field 'answer_start'",
    ),
    "a question without an answer": Bad(
        squad.source,
        questions({"id": "1", "answers": []}),
        f"{SQUAD}: article 1, paragraph 2, question 1: no label or answer",
    ),
    "a column": Bad(
        lambda: glue.source("sst2"), {SST: f"{HEAD}\nbore\n"}, f"{SST}:4: no field 'label'"
    ),
    "a key that occurs twice": Bad(
        lambda: super_glue.source("boolq"),
        {
            "BoolQ/train.jsonl": '{"question": "q", "passage": "p", "idx": 0, "label": true}\n'
            '{"question": "q", "question": "r", "passage": "p", "idx": 1, "label": true}\n'
        },
        "BoolQ/train.jsonl:2: not JSON: key 'question' occurs twice in an object",
    ),
    "a tab in a text": Bad(
        lambda: glue.source("sst2"),
        {SST: f"{HEAD}fine\t1\t0\n"},
        f"{SST}:3: 3 cells, but only 2 columns",
    ),
    "a label of a row": Bad(
        lambda: glue.source("sst2"),
        {SST: f"{HEAD}bore\tnone\n"},
        f"{SST}:3: label 'none' is not one of negative, positive, 0, 1",
    ),
    "a row in another encoding": Bad(
        lambda: glue.source("sst2"), {SST: f"{HEAD}caf\xe9\t1\n"}, f"{SST}:3: not UTF-8, at byte 4"
    ),
    "no column of labels": Bad(
        lambda: glue.source("sst2"),
        {SST: "sentence\nfine\n"},
        f"{SST}:2: no label or answer",
        None,
    ),
    "a score": Bad(
        lambda: glue.source("stsb"),
        {"STS-B/train.tsv": "sentence1\tsentence2\tscore\na\tb\t5\na\tb\t5.1\n"},
        "STS-B/train.tsv:3: score '5.1' is not between 0 and 5",
    ),
    "a row of the list of ids": Bad(
        lambda: glue.source("mrpc"),
        {
            "MRPC/msr_paraphrase_train.txt": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
            "1\t1\t2\ta\tb\n",
            "MRPC/dev_ids.tsv": "3\n",
        },
        "MRPC/dev_ids.tsv:1: not two ids separated by a tab",
    ),
    "a story that is not there": Bad(
        summarization.cnn_dailymail_source,
        urls(CNN_URL, MAIL_URL) | STORY,
        f"{URLS}:2: its story, {story(MAIL_URL)[12:]}, is not in any of the story folders",
    ),
    "a story in another encoding": Bad(
        summarization.cnn_dailymail_source,
        urls(CNN_URL, MAIL_URL) | STORY | {story(MAIL_URL, "dailymail"): "\n\ncaf\xe9\n"},
        f"{story(MAIL_URL, 'dailymail')}:3: not UTF-8, at byte 4",
    ),
    "an article that is not there": Bad(
        summarization.xsum_source,
        xsum("1", "2") | XSUM_GOOD,
        f"{XSUM_SPLITS}: train 2: no article '2' in ",
    ),
    "an article without a part": Bad(
        summarization.xsum_source,
        xsum("1", "2") | XSUM_GOOD | {f"{XSUM}/2.summary": "[SN]RESTBODY[SN]\nRain.\n"},
        f"{XSUM}/2.summary: no part FIRST-SENTENCE or INTRODUCTION",
    ),
    "no list of a split": Bad(
        summarization.xsum_source,
        {XSUM_SPLITS: '{"dev": []}'} | XSUM_GOOD,
        f"{XSUM_SPLITS}: no list 'train'",
        None,
    ),
    "a question of trivia": Bad(
        closed_book.trivia_qa_source,
        {TRIVIA: official_files.TRIVIA_TEXT.replace('"Value": "Everest"', '"Value": ', 1)},
        f"{TRIVIA}:3: not JSON: ",
    ),
    "a file of trivia that is cut off": Bad(
        closed_book.trivia_qa_source,
        {TRIVIA: official_files.TRIVIA_TEXT[:-20]},
        f"{TRIVIA}:30: the record has no end",
    ),
    "a file of trivia in one line": Bad(
        closed_book.trivia_qa_source,
        {TRIVIA: '{"Data": []}'},
        f"{TRIVIA}: no record; each must start with a line of 8 spaces",
        None,
    ),
    "a block with a line too few": Bad(
        super_glue.dpr_source,
        {DPR: f"{DPR_GOOD}Ann ran.\nAnn, Bob\nAnn\n"},
        f"{DPR}:6: 3 lines between blank lines, not 4",
    ),
    "an answer that is no candidate": Bad(
        super_glue.dpr_source,
        {DPR: f"{DPR_GOOD}She ran.\nShe\nAnn, Eve\nBob\n"},
        f"{DPR}:6: answer 'Bob' is not one of two candidates 'Ann, Eve'",
    ),
    "a block in another encoding": Bad(
        super_glue.dpr_source,
        {DPR: f"{DPR_GOOD}She ran.\nSh\xe9\nAnn, Eve\nAnn\n"},
        f"{DPR}:7: not UTF-8, at byte 3 of the line",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_stops_the_run_or_is_left_out_and_counted(name, folder, capsys):
    bad = BAD[name]
    for file, text in bad.files.items():
        write_file(folder, file, "")
        (folder / file).write_bytes(text.encode("latin-1"))
    source = bad.source()
    with pytest.raises(UserError) as caught:
        source.prepare()
    assert str(caught.value).startswith(f"{folder}/{bad.told}")
    assert "set BAD_DATA='skip'" in str(caught.value)
    assert "\n" not in str(caught.value)

    set_macros(BAD_DATA="skip")
    if bad.good is None:
        with pytest.raises(UserError, match="no examples in it"):
            source.examples("train")
    else:
        assert len(source.examples("train")) == bad.good
    file = next(iter(bad.files))
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith(f"{folder}/{file}: 1 records skipped (BAD_DATA='skip'), the first: ")
    assert told.split("first: ")[1].startswith(f"{folder}/{bad.told}")


@pytest.mark.parametrize(
    "source, file, text",
    [
        (lambda: reading.anli_source(1), ANLI, "\n"),
        (lambda: glue.source("sst2"), SST, "sentence\tlabel\n"),
        (squad.source, SQUAD, '{"data": []}'),
        (super_glue.dpr_source, DPR, ""),
    ],
)
def test_a_file_without_an_example_is_told(source, file, text, folder):
    write_file(folder, file, text)
    with pytest.raises(UserError, match=f"{file}: no examples in it"):
        source().prepare()


def test_a_folder_that_is_not_there_is_named(folder):
    write_file(folder, XSUM_SPLITS, "{}")
    told = (
        "xsum/bbc-summary-data: no such file; DATA_DIR must contain xsum/bbc-summary-data or "
        "xsum/xsum-extracts-from-downloads for xsum:1.1.0"
    )
    with pytest.raises(UserError, match=told):
        summarization.xsum_source().prepare()


def test_a_split_whose_file_is_not_there_is_told(folder, capsys):
    (folder / ANLI).parent.mkdir(parents=True)
    (folder / ANLI).write_text(json.dumps(official_files.JSON_LINES[ANLI][0]))
    reading.anli_source(1).prepare()
    assert capsys.readouterr().out == (
        "DATA_DIR has no anli_v1.0/R1/dev.jsonl: anli/r1:0.1.0 is read without its split "
        "'validation'\n"
    )


def test_lines_are_without_a_byte_order_mark(folder):
    write_file(folder, "a.txt", "\ufeffa\r\nb\n")
    assert list(formats.lines(str(folder / "a.txt"))) == [(1, "a\n"), (2, "b\n")]


def test_a_file_that_cannot_be_read_is_told(folder):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(formats.lines(str(folder)))
