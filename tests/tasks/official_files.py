"""A handful of examples, written for the tests, of each dataset in its official form."""

import hashlib
import json
import os

import gin

from tests.tasks import super_glue_files

_MNLI = ("index", "sentence1", "sentence2", "label1", "gold_label")
_PAIR = ("index", "sentence1", "sentence2", "label")
_WET = ("0", "It rains.", "It is wet.")
_DRY = ("1", "It rains.", "It is dry.")
_MNLI_ROWS = [
    _MNLI,
    (*_WET, "entailment", "entailment"),
    (*_DRY, "neutral", "contradiction"),
    ("2", 'A "sound.', "Ann sings.", "neutral", "neutral"),
]
_QQP = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
_STSB = ("index", "genre", "sentence1", "sentence2", "score")
_MRPC = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
_WNLI = ("0", "The fish ate the worm. It was tasty.", "The worm was tasty.")
TSV = {
    "CoLA/train.tsv": [("gj04", "1", "", "Rain falls."), ("gj04", "0", "*", "Falls rain the.")],
    "CoLA/dev.tsv": [("gj04", "0", "*", "Ann sing."), ("gj04", "1", "", "Ann sings.")],
    "CoLA/test.tsv": [("index", "sentence"), ("0", "Bob sings.")],
    "SST-2/train.tsv": [("sentence", "label"), ('a "fine film ', "1"), ("a bore ", "0")],
    "QQP/train.tsv": [
        _QQP,
        ("7", "1", "2", "Is it wet?", "Is it damp?", "1"),
        # A line break inside a question parts its row.
        ("8", "3", "4", "Is it"),
        ("dry?", "Is it arid?", "1"),
        ("9", "5", "6", "Is it hot?", "Is it wet?", "0"),
    ],
    "QQP/test.tsv": [("id", "question1", "question2"), ("0", "Is it wet?", "Is it dry?")],
    "STS-B/train.tsv": [
        _STSB,
        ("0", "news", "Ann ran.", "Ann moved.", "4.15"),
        ("1", "news", "Ann ran.", "It rains.", "0.000"),
    ],
    "MNLI/train.tsv": _MNLI_ROWS,
    "MNLI/dev_matched.tsv": _MNLI_ROWS,
    "MNLI/dev_mismatched.tsv": _MNLI_ROWS[:3],
    "QNLI/train.tsv": [
        ("index", "question", "sentence", "label"),
        ("0", "Who ran?", "Ann ran.", "entailment"),
        ("1", "Who ran?", "It rains.", "not_entailment"),
    ],
    "RTE/train.tsv": [_PAIR, (*_WET, "entailment"), (*_DRY, "not_entailment")],
    "WNLI/dev.tsv": [_PAIR, (*_WNLI, "1")],
    "MRPC/msr_paraphrase_train.txt": [
        _MRPC,
        ("1", "11", "12", "Ann ran.", "Ann has run."),
        ("0", "13", "14", "Ann ran.", "It rains."),
        ("1", "15", "16", "It rains.", "Rain falls."),
        ("0", "17", "18", "It rains.", "Bob ran."),
    ],
    "MRPC/msr_paraphrase_test.txt": [_MRPC, ("1", "21", "22", "Bob ran.", "Bob has run.")],
    "MRPC/dev_ids.tsv": [("13", "14"), ("15", "16")],
}
for _name in ("SST-2", "QQP", "STS-B", "QNLI", "RTE"):
    TSV[f"{_name}/dev.tsv"] = TSV[f"{_name}/train.tsv"]

_ANLI = [
    {"uid": "a", "context": "It rains.", "hypothesis": "It is wet.", "label": "e", "reason": "x"},
    {"uid": "b", "context": "It rains.", "hypothesis": "It is dry.", "label": "c", "reason": ""},
]
_ARC = [
    {
        "id": "q1",
        "question": {
            "stem": "Which is solid?",
            "choices": [{"text": "air", "label": "A"}, {"text": "ice", "label": "B"}],
        },
        "answerKey": "B",
    },
    {
        "id": "q2",
        "question": {
            "stem": "Which burns?",
            "choices": [{"text": "wood", "label": "1"}, {"text": "iron", "label": "2"}],
        },
        "answerKey": "1",
    },
]
_WINOGRANDE = [
    {"qID": "x-1", "sentence": "The cup hit it. The _ broke.", "option1": "cup", "option2": "floor"}
    | {"answer": "1"},
    {"qID": "x-2", "sentence": "Ann paid Bob. _ is rich.", "option1": "Bob", "option2": "Ann"}
    | {"answer": "2"},
]
_NQ = [
    {"question": "who wrote hamlet", "answer": ["William Shakespeare", "Shakespeare"]},
    {"question": "who rules rome", "answer": ["the pope"]},
]
JSON_LINES = {
    "anli_v1.0/R1/train.jsonl": _ANLI,
    "anli_v1.0/R2/test.jsonl": _ANLI,
    "anli_v1.0/R3/dev.jsonl": _ANLI,
    "ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Train.jsonl": _ARC,
    "ARC-V1-Feb2018-2/ARC-Challenge/ARC-Challenge-Dev.jsonl": _ARC,
    "winogrande_1.1/train_xl.jsonl": _WINOGRANDE,
    "winogrande_1.1/dev.jsonl": _WINOGRANDE,
    "winogrande_1.1/test.jsonl": [{k: v for k, v in _WINOGRANDE[0].items() if k != "answer"}],
    "nq_open/NQ-open.train.jsonl": _NQ,
    "nq_open/NQ-open.dev.jsonl": _NQ,
}

_SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Rain",
            "paragraphs": [
                {
                    "context": "Rain is water, from clouds.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What is rain?",
                            "answers": [
                                {"text": "water", "answer_start": 8},
                                {"text": "water, from clouds", "answer_start": 8},
                            ],
                        }
                    ],
                }
            ],
        },
        {
            "title": "Snow",
            "paragraphs": [
                {
                    "context": "Snow is ice.",
                    "qas": [
                        {
                            "id": "2",
                            "question": "What is snow?",
                            "answers": [{"text": "ice", "answer_start": 8}],
                        }
                    ],
                }
            ],
        },
    ],
}
_WEB_QUESTIONS = [
    {
        "url": "http://example.org/rome",
        "utterance": "where is rome?",
        "targetValue": '(list (description Italy) (description "Lazio region"))',
    }
]
_TRIVIA = {
    "Answer": {
        "Aliases": [" Mount Everest", "Everest"],
        "NormalizedAliases": ["mount everest", "everest"],
        "MatchedWikiEntryName": "Mount Everest",
        "NormalizedValue": "everest",
        "Type": "WikipediaEntity",
        "Value": "Everest",
    },
    "EntityPages": [{"DocSource": "Search", "Filename": "Everest.txt", "Title": "Everest"}],
    "Question": "Which mountain is the highest? ",
    "QuestionId": "tc_1",
    "QuestionSource": "http://example.org/",
    "SearchResults": [],
}
TRIVIA_TEXT = json.dumps({"Data": [_TRIVIA, _TRIVIA | {"QuestionId": "tc_2"}]}, indent=4)
JSON = {
    "squad/train-v1.1.json": json.dumps(_SQUAD),
    "squad/dev-v1.1.json": json.dumps(_SQUAD),
    "web_questions/webquestions.examples.train.json": json.dumps(_WEB_QUESTIONS),
    "web_questions/webquestions.examples.test.json": json.dumps(_WEB_QUESTIONS),
    "triviaqa-unfiltered/unfiltered-web-train.json": TRIVIA_TEXT,
    "triviaqa-unfiltered/unfiltered-web-dev.json": TRIVIA_TEXT,
}

CNN_URL, MAIL_URL, BARE_URL = (f"http://example.org/{name}" for name in ("cnn", "mail", "bare"))


def story(url, publisher="cnn"):
    """Path of the story of an address."""
    return f"{publisher}/stories/{hashlib.sha1(url.encode()).hexdigest()}.story"


STORIES = {
    story(
        CNN_URL
    ): "It rained \u201chard\u201d\n\nAnn ran.\n\n@highlight\n\nAnn got wet\n\n@highlight"
    "\n\nIt rained!\n",
    story(MAIL_URL, "dailymail"): "Snow fell.\n\n@highlight\n\nIt is cold\n",
    story(BARE_URL): "A picture.\n",
}
URLS = {
    "cnn_dailymail/all_train.txt": [CNN_URL, MAIL_URL, BARE_URL],
    "cnn_dailymail/all_val.txt": [MAIL_URL],
}
XSUM_SPLITS = "xsum/XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
_XSUM = (
    "[{0}]URL[{0}]\nexample.org/1\n\n[{0}]{1}[{0}]\nIt rained in Rome.\n\n[{0}]RESTBODY[{0}]\n"
    "Rain fell.\nShare this with\nAnn got wet.\n"
)
XSUM = {
    "xsum/xsum-extracts-from-downloads/1.data": _XSUM.format("XSUM", "INTRODUCTION"),
    "xsum/xsum-extracts-from-downloads/2.data": _XSUM.format("XSUM", "INTRODUCTION"),
    XSUM_SPLITS: json.dumps({"train": ["1", "2"], "validation": ["2"], "test": ["1"]}),
}
XSUM_OF_THE_AUTHORS = _XSUM.format("SN", "TITLE[SN]\nRain\n\n[SN]FIRST-SENTENCE")


def write_file(folder, name, text):
    """Writes a file, and the folders above it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write(folder):
    """Writes all of them under `folder`."""
    super_glue_files.write(folder)
    files = JSON | STORIES | XSUM
    files |= {
        name: "".join(f"{json.dumps(r)}\n" for r in rows) for name, rows in JSON_LINES.items()
    }
    files |= {name: "".join(f"{url}\n" for url in urls) for name, urls in URLS.items()}
    for name, rows in TSV.items():
        # Microsoft's files begin with a byte order mark.
        mark = "\ufeff" * name.endswith(".txt")
        files[name] = mark + "".join("\t".join(row) + "\n" for row in rows)
    for name, text in files.items():
        write_file(folder, name, text)
    os.makedirs(folder / "dailymail/stories", exist_ok=True)


def set_macros(**macros):
    """Sets macros of gin."""
    with gin.unlock_config():
        gin.parse_config([f"{name} = {value!r}" for name, value in macros.items()])
