"""Splits without labels, as published test files are: they have no figures."""

import dataclasses
import functools
import json

import pytest
import seqio
import tensorflow as tf
from t5.data import postprocessors
from t5.evaluation import metrics

from switch_tf.checkpoints.save import save_model
from switch_tf.errors import UserError
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


def test_where_there_is_nothing_to_tell_an_evaluation_is_refused(made):
    of_task = dataclasses.replace(made, data=ALONE)
    with pytest.raises(UserError) as told:
        Evaluators(of_task, Evaluation())
    assert str(told.value) == (
        "split 'validation' of toy_unlabelled has no labels, as published test files have none: it "
        "gives no figures: set Evaluation.split to another one, or Evaluation.decode and "
        "Evaluation.predictions to True to have its predictions"
    )


def test_a_run_neither_learns_from_such_a_split_nor_evaluates_itself_by_it(made):
    def check(data, settings):
        of_run = dataclasses.replace(made, data=data)
        train._check_answers(of_run, Evaluators(of_run, settings))

    with pytest.raises(UserError, match="'validation' of toy_unlabelled has no labels to learn"):
        check(ALONE, dataclasses.replace(DECODES, split="train"))
    trains = dataclasses.replace(ALONE, split="train")
    with pytest.raises(UserError, match="'validation' of toy_unlabelled has no labels to evaluate"):
        check(trains, DECODES)
    check(trains, dataclasses.replace(DECODES, split="train"))
