import json

import pytest

from switch_tf.checkpoints.save import save_model
from switch_tf.errors import UserError
from switch_tf.evaluation.evaluators import Evaluators
from switch_tf.evaluation.run import evaluate
from switch_tf.evaluation.settings import Evaluation
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
    with open(f"{path}/evaluation.json") as file:
        assert json.load(file) == expected
    *_, first, second, written = capsys.readouterr().out.splitlines()
    nlp = f"nlp {expected[TASKS[0]]['nlp']:.4g}  "
    assert first.startswith(f"toy_copy  {nlp}") and second.startswith(f"toy_copy_too  {nlp}")
    assert written == f"written to {path}/evaluation.json"


def test_an_output_that_cannot_be_written_is_told_before_a_model_is_made(saved, tmp_path):
    def never():
        pytest.fail("the settings are checked first")

    output = tmp_path / "no" / "figures.json"
    with pytest.raises(UserError, match=f"^output_path='{output}' cannot be written: set evaluate"):
        evaluate(saved[0], never, never, output_path=str(output))
