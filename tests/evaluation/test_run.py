import dataclasses
import functools
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from switch_tf.checkpoints.save import save_model
from switch_tf.errors import UserError
from switch_tf.evaluation.evaluators import Evaluators
from switch_tf.evaluation.run import evaluate
from switch_tf.evaluation.settings import Evaluation
from switch_tf.layers.switch_ffn import SwitchFFN
from tests.evaluation.conftest import DATA, SETUP, TASKS


@pytest.fixture(scope="module")
def saved(made, tmp_path_factory):
    """A checkpoint of the model, and the figures of its evaluation."""
    path = str(tmp_path_factory.mktemp("saved") / "model")
    save_model(path, made.model)
    return path, Evaluators(made, Evaluation()).run(step=0, task_metrics=True)


def test_a_checkpoint_has_the_figures_of_its_model_beside_it_and_told(saved, capsys):
    path, expected = saved
    assert evaluate(path, lambda: DATA, lambda: SETUP) == expected
    figures = f"{path}/evaluation_toy_mixture_validation"
    with open(f"{figures}.json") as file:
        assert json.load(file) == expected
    *_, first, second, written = capsys.readouterr().out.splitlines()
    nlp = f"nlp {expected[TASKS[0]]['nlp']:.4g}  "
    assert first.startswith(f"toy_copy  {nlp}") and second.startswith(f"toy_copy_too  {nlp}")
    assert written == f"written to {figures}.json"


def test_a_second_evaluation_keeps_the_first_and_predictions_are_beside_it(saved, tmp_path, capsys):
    # Decoding has one token a sequence, which two devices share as two groups.
    switch_ffn = functools.partial(SwitchFFN, 8, group_size=16, groups_multiple=2)
    model = functools.partial(SETUP.model, switch_ffn=switch_ffn)
    setup = dataclasses.replace(SETUP, model=model)

    def run():
        decodes = Evaluation(batches=1, decode=True, decode_examples=3)
        evaluate(saved[0], lambda: DATA, lambda: setup, lambda: decodes, str(tmp_path / "f.json"))

    run()
    first = (tmp_path / "f.json").read_bytes()
    assert {figures["decoded"] for figures in json.loads(first).values()} == {3}
    told = capsys.readouterr().out
    assert "  decoded 3\n" in told
    assert told.startswith(
        "evaluates toy_mixture, split 'validation': at most 1 batch per task, 4 examples per "
        "batch; the tasks' own metrics of at most 3 examples per task\n"
        "mesh: batch 2; rules: batch -> batch\n"
    )
    assert re.search(r"^model: .* parameters, .* computes in float32$", told, re.MULTILINE)
    run()
    assert (tmp_path / "f.json").read_bytes() == (tmp_path / "f_2.json").read_bytes() == first
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{tmp_path}/f.json holds an earlier evaluation and is kept",
        f"written to {tmp_path}/f_2.json, predictions to {tmp_path}/f_2_predictions",
    ]
    for task in TASKS:
        lines = (tmp_path / f"f_2_predictions/{task}.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        assert [record["targets"] for record in found] == ["a", "bb", "ccc"]
        assert all(isinstance(record["prediction"], str) for record in found)


def test_an_evaluation_that_ends_meanwhile_is_kept_as_well(saved, tmp_path, monkeypatch):
    output, found = tmp_path / "f.json", {"a": {"nlp": -2.0}}

    def meanwhile(self, predictions, **_):
        output.write_text("the other's")
        os.mkdir(predictions)
        (Path(predictions) / "a.jsonl").write_text("mine")
        return found

    monkeypatch.setattr(Evaluators, "run", meanwhile)
    evaluate(saved[0], lambda: DATA, lambda: SETUP, output_path=str(output))
    assert output.read_text() == "the other's"
    assert json.loads((tmp_path / "f_2.json").read_text()) == found
    assert (tmp_path / "f_2_predictions/a.jsonl").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_each_split_has_figures_of_its_own_beside_those_of_others(saved, tmp_path, monkeypatch):
    path = str(shutil.copytree(saved[0], tmp_path / "model"))
    for old in Path(path).glob("evaluation_*"):
        old.unlink()
    monkeypatch.setattr(Evaluators, "run", lambda self, **_: {"toy": {self.data.split: 1.0}})
    for split in ("validation", "train", "validation"):
        evaluate(path, lambda: DATA, lambda: SETUP, lambda split=split: Evaluation(split=split))
    found = {file.name: json.loads(file.read_text()) for file in Path(path).glob("*.json")}
    assert {name: figures for name, figures in found.items() if name.startswith("evaluation")} == {
        "evaluation_toy_mixture_validation.json": {"toy": {"validation": 1.0}},
        "evaluation_toy_mixture_train.json": {"toy": {"train": 1.0}},
        "evaluation_toy_mixture_validation_2.json": {"toy": {"validation": 1.0}},
    }


def test_an_evaluation_that_ends_early_leaves_nothing(saved, tmp_path, monkeypatch):
    def interrupted(self, predictions, **_):
        os.mkdir(predictions)
        raise KeyboardInterrupt()

    monkeypatch.setattr(Evaluators, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(saved[0], lambda: DATA, lambda: SETUP, output_path=str(tmp_path / "f.json"))
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_fails_leaves_no_empty_folder(saved, tmp_path, monkeypatch):
    folder = shutil.copytree(saved[0], tmp_path / "run/checkpoint_3")
    (tmp_path / "run/config.gin").write_text("")
    (tmp_path / "run/run.json").write_text("{}")

    def fail(self, **_):
        raise UserError("a bad record")

    monkeypatch.setattr(Evaluators, "run", fail)
    with pytest.raises(UserError, match="a bad record"):
        evaluate(str(folder), lambda: DATA, lambda: SETUP)
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert there == {"checkpoint_3", "config.gin", "run.json"}


def test_an_output_that_cannot_be_written_is_told_before_a_model_is_made(saved, tmp_path):
    def never():
        pytest.fail("the settings are checked first")

    output = tmp_path / "no" / "figures.json"
    with pytest.raises(UserError, match=f"^output_path='{output}' cannot be written: set evaluate"):
        evaluate(saved[0], lambda: DATA, never, output_path=str(output))
