"""Splits without labels, as published test files are: they have no figures."""

import dataclasses
import functools
import json

import pytest
import seqio
import tensorflow as tf
from t5.data import postprocessors, preprocessors
from t5.evaluation import metrics

from switch_tf.checkpoints.save import save_model
from switch_tf.errors import UserError
from switch_tf.evaluation import evaluators
from switch_tf.evaluation.evaluators import Evaluators
from switch_tf.evaluation.run import evaluate
from switch_tf.evaluation.settings import Evaluation
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.training import train
from tests.evaluation.conftest import DATA, SETUP
from tests.toy_task import VOCABULARY

NAME = "toy_unlabelled"
ALONE = dataclasses.replace(DATA, mixture_or_task_name=NAME)
HALF = dataclasses.replace(DATA, mixture_or_task_name="toy_half")
DECODES = Evaluation(batches=1, dropless=False, decode=True, decode_examples=3)


def _questions(split, shuffle_files=False, seed=None):
    answer = "yes" if split == "train" else "<unk>"
    found = {"inputs": ["a?", "b?", "c?", "d?"], "targets": [answer] * 4}
    return tf.data.Dataset.from_tensor_slices(found)


if NAME not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
        NAME,
        source=seqio.FunctionDataSource(_questions, ["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={k: seqio.Feature(VOCABULARY) for k in ("inputs", "targets")},
        postprocess_fn=functools.partial(
            postprocessors.string_label_to_class_id, label_classes=["yes", "no"]
        ),
        metric_fns=[metrics.accuracy],
    )
    seqio.MixtureRegistry.add("toy_half", [("toy_copy", 1.0), (NAME, 1.0)])


def _choices(split, shuffle_files=False, seed=None):
    label = 0 if split == "train" else -1
    found = {"question": ["a?", "b?"], "label": [label] * 2, "choices": [["yes", "no"]] * 2}
    return tf.data.Dataset.from_tensor_slices(found)


def _marked(split, shuffle_files=False, seed=None):
    targets = ["yes"] * 8 + ["-1"] * (split == "some") if split != "none" else ["?"] * 9
    found = {"inputs": ["a?"] * len(targets), "targets": targets}
    return tf.data.Dataset.from_tensor_slices(found)


RANKED, MARKED = "toy_ranked_unlabelled", "toy_marked"
if RANKED not in seqio.TaskRegistry.names():
    encoded = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]
    features = {k: seqio.Feature(VOCABULARY) for k in ("inputs", "targets")}
    seqio.TaskRegistry.add(
        RANKED,
        source=seqio.FunctionDataSource(_choices, ["train", "validation"]),
        preprocessors=[
            functools.partial(
                preprocessors.rank_classification,
                inputs_fn=lambda ex: tf.fill([2], ex["question"]),
                targets_fn=lambda ex: ex["choices"],
                is_correct_fn=lambda ex: tf.one_hot(ex["label"], 2, on_value=True, off_value=False),
            ),
            *encoded,
        ],
        output_features=features,
        postprocess_fn=postprocessors.rank_classification,
        metric_fns=[metrics.rank_classification],
    )
    seqio.TaskRegistry.add(
        MARKED,
        source=seqio.FunctionDataSource(_marked, ["train", "none", "some"]),
        preprocessors=encoded,
        output_features=features,
        metric_fns=[metrics.accuracy],
    )


def test_of_a_mixture_only_tasks_with_labels_have_figures_and_all_have_predictions(
    made, tmp_path, capsys
):
    path = str(tmp_path / "model")
    save_model(path, made.model)
    output = tmp_path / "f.json"
    # Decoding has one token a sequence, which two devices share as two groups.
    switch_ffn = functools.partial(SwitchFFN, 8, group_size=16, groups_multiple=2)
    setup = dataclasses.replace(SETUP, model=functools.partial(SETUP.model, switch_ffn=switch_ffn))
    found = evaluate(path, lambda: HALF, lambda: setup, lambda: DECODES, str(output))
    assert found.keys() == {"toy_copy"} and "accuracy" in found["toy_copy"]
    assert json.loads(output.read_text()) == found
    assert (
        "split 'validation' of toy_unlabelled has no labels, as published test files have none: it "
        "gives no figures, only predictions\n"
    ) in capsys.readouterr().out
    written = {file.name: file for file in (tmp_path / "f_predictions").iterdir()}
    assert written.keys() == {"toy_copy.jsonl", f"{NAME}.jsonl"}
    lines = written[f"{NAME}.jsonl"].read_text().splitlines()
    assert [json.loads(line)["inputs"] for line in lines] == ["a?", "b?", "c?"]


@pytest.mark.parametrize(
    "name, split", [(NAME, "validation"), (RANKED, "validation"), (MARKED, "none")]
)
def test_where_there_is_nothing_to_tell_an_evaluation_is_refused(made, name, split):
    of_task = dataclasses.replace(made, data=task(name))
    with pytest.raises(UserError) as told:
        Evaluators(of_task, Evaluation(split=split))
    assert str(told.value) == (
        f"split '{split}' of {name} has no labels, as published test files have none: it "
        "gives no figures: set Evaluation.split to another one, or Evaluation.decode and "
        "Evaluation.predictions to True to have its predictions"
    )


def task(name):
    return dataclasses.replace(DATA, mixture_or_task_name=name)


def test_what_is_not_looked_at_before_a_run_is_before_its_figures(made, monkeypatch):
    monkeypatch.setattr(evaluators, "_LOOK_SECONDS", 0.0)
    settings = Evaluation(dropless=False, split="some")
    found = Evaluators(dataclasses.replace(made, data=task(MARKED)), settings)
    with pytest.raises(UserError, match="split 'some': 1 of 9 examples have no answer"):
        found.run(step=0, task_metrics=False)
    settings = dataclasses.replace(settings, split="none")
    found = Evaluators(dataclasses.replace(made, data=task(MARKED)), settings)
    with pytest.raises(UserError, match="split 'none' of toy_marked has no labels"):
        found.run(step=0, task_metrics=False)


def test_a_run_neither_learns_from_such_a_split_nor_evaluates_itself_by_it(made):
    def check(data, settings):
        of_run = dataclasses.replace(made, data=data)
        Evaluators(of_run, settings, in_training=True)
        train._check_answers(data)

    with pytest.raises(UserError, match="'validation' of toy_unlabelled has no labels to learn"):
        check(ALONE, dataclasses.replace(DECODES, split="train"))
    trains = dataclasses.replace(ALONE, split="train")
    with pytest.raises(UserError) as told:
        check(trains, DECODES)
    assert str(told.value) == (
        "split 'validation' of toy_unlabelled has no labels, as published test files have none: it "
        "gives no figures to compare the steps of the run by: set Evaluation.split to one that has "
        "labels, such as a part of the training data that the task keeps for it"
    )
    check(trains, dataclasses.replace(DECODES, split="train"))
