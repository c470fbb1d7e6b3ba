"""A handful of examples, written for the tests, of each SuperGLUE task in its official form."""

import json

RECORD_TEXT = "Ann met Bob in Rome.\n@highlight\nBob left."
ROWS = {
    "BoolQ": [
        {"question": "is rain wet", "passage": "Rain is water.", "idx": 0, "label": True},
        {"question": "is snow hot", "passage": "Snow is ice.", "idx": 1, "label": False},
    ],
    "CB": [
        {"premise": "Ann ran.", "hypothesis": "Ann moved.", "label": "entailment", "idx": 0},
        {"premise": "Ann ran.", "hypothesis": "Ann sat.", "label": "contradiction", "idx": 1},
        {"premise": "Ann ran.", "hypothesis": "Bob ran.", "label": "neutral", "idx": 2},
    ],
    "COPA": [
        {
            "premise": "The cup fell.",
            "choice1": "It broke.",
            "choice2": "It sang.",
            "question": "effect",
            "label": 0,
            "idx": 0,
        },
        {
            "premise": "The grass was wet.",
            "choice1": "It slept.",
            "choice2": "It rained.",
            "question": "cause",
            "label": 1,
            "idx": 1,
        },
    ],
    "MultiRC": [
        {
            "idx": 0,
            "version": 1.1,
            "passage": {
                "text": "<b>Sent 1: </b>Ann ate.<br>",
                "questions": [
                    {
                        "question": "Who ate?",
                        "idx": 0,
                        "answers": [
                            {"text": "Ann", "idx": 0, "label": 1},
                            {"text": "Bob", "idx": 1, "label": 0},
                        ],
                    }
                ],
            },
        }
    ],
    "ReCoRD": [
        {
            "source": "Daily mail",
            "idx": 0,
            "passage": {
                "text": RECORD_TEXT,
                "entities": [
                    {"start": 0, "end": 2},
                    {"start": 8, "end": 10},
                    {"start": 15, "end": 18},
                    {"start": 32, "end": 34},
                ],
            },
            "qas": [
                {
                    "query": "@placeholder left.",
                    "idx": 3,
                    "answers": [{"start": 8, "end": 10, "text": "Bob"}],
                }
            ],
        }
    ],
    "RTE": [
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment", "idx": 0},
        {"premise": "It rains.", "hypothesis": "It is dry.", "label": "not_entailment", "idx": 1},
    ],
    "WiC": [
        {
            "word": "bank",
            "sentence1": "A river bank.",
            "sentence2": "A bank lends.",
            "idx": 0,
            "label": False,
            "start1": 8,
            "start2": 2,
            "end1": 12,
            "end2": 6,
            "version": 1.1,
        },
        {
            "word": "run",
            "sentence1": "Run home.",
            "sentence2": "Run away.",
            "idx": 1,
            "label": True,
            "start1": 0,
            "start2": 0,
            "end1": 3,
            "end2": 3,
            "version": 1.1,
        },
    ],
    "WSC": [
        {
            "text": "The dog saw a cat and it barked.",
            "target": {
                "span1_index": 0,
                "span1_text": "the dog.",
                "span2_index": 6,
                "span2_text": "it",
            },
            "idx": 0,
            "label": True,
        },
        {
            "text": "The dog saw a cat and it barked.",
            "target": {
                "span1_index": 3,
                "span1_text": "a cat",
                "span2_index": 6,
                "span2_text": "it",
            },
            "idx": 1,
            "label": False,
        },
    ],
}


DPR = """Ann asked Bob if he can sing.
he
Ann, Bob
Bob

The cup hit the floor and it broke.
it
The cup,the floor
The cup

"""


def write(folder):
    """Writes train.jsonl and val.jsonl of each task, and the train file of DPR."""
    for task, rows in ROWS.items():
        (folder / task).mkdir()
        for name in ("train", "val"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / task / f"{name}.jsonl").write_text(text)
    (folder / "definite_pronoun_resolution").mkdir()
    (folder / "definite_pronoun_resolution/train.c.txt").write_text(DPR)
