import json

import numpy as np
import seqio

from switch_tf import runtime
from switch_tf.evaluation import predictions
from tests.toy_task import VOCABULARY

TYPES = seqio.metrics.ModelOutputType
TASK = seqio.get_mixture_or_task("toy_copy")


def tokens(text):
    return np.array([*VOCABULARY.encode(text), 1])


def example(inputs, targets, **texts):
    return {"inputs": tokens(inputs), "targets": tokens(targets)} | texts


def test_an_answer_stands_beside_what_was_asked_and_what_is_right():
    """Texts are those of the task where it keeps them, otherwise those of the tokens."""
    examples = [
        example("ab.", "ab", inputs_pretokenized="äb.".encode(), targets_pretokenized=b"ab"),
        example("cd.", "cd", targets_pretokenized=np.array([b"cd", b"dc"])),
    ]
    outputs = {TYPES.PREDICTION: [[*VOCABULARY.encode("ab"), 1, 0], [*VOCABULARY.encode("x"), 1]]}
    assert list(predictions.records(TASK, examples, outputs)) == [
        {"inputs": "äb.", "targets": "ab", "prediction": "ab"},
        {"inputs": "cd.", "targets": "cd", "prediction": "x"},
    ]


def test_a_scored_choice_has_its_score():
    found = predictions.records(TASK, [example("a", "b")], {TYPES.SCORE: [np.float32(-0.5)]})
    assert list(found) == [{"inputs": "a", "targets": "b", "score": -0.5}]


def test_a_file_has_a_line_for_each_example_and_only_the_chief_writes_it(tmp_path, monkeypatch):
    examples = [example("ä", "b"), example("c", "d")]
    arguments = TASK, examples, {TYPES.PREDICTION: [[1], [1]]}
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "is_chief", lambda: False)
        predictions.write(str(tmp_path / "not"), *arguments)
    predictions.write(str(tmp_path / "new/folder"), *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    text = (tmp_path / "new/folder/toy_copy.jsonl").read_text()
    assert [json.loads(line)["inputs"] for line in text.splitlines()] == ["ä", "c"]
    assert "ä" in text
