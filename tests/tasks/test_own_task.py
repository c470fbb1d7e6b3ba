"""The page docs/tasks.md: its module in a folder of the user's, and its commands on it."""

import json
import re
import shlex
import sys
from pathlib import Path

import gin
import pytest
import seqio

from switch_tf.commands import main as main_module
from switch_tf.tasks.vocabulary import t5

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "tasks.md").read_text()
(MODULE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```\n(switch-tf.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(PREVIEWS, FINETUNES, EVALUATES_IT), (TRAINS_VOCABULARY, TRAINS, EVALUATES) = (
    [shlex.split(command)[1:] for command in block.replace("\\\n", " ").split("\n\n")]
    for block in BLOCKS
    if "my_tasks" in block
)
SMALL = [
    "--gin.TransformerEncoderDecoder.num_layers=1",
    "--gin.TransformerEncoderDecoder.d_model=16",
    "--gin.BATCH_SIZE=4",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [f"what comes after {i}\t{i + 1}\n" for i in range(40)]
    (tmp_path / "train.tsv").write_text("".join(pairs[:32]))
    (tmp_path / "validation.tsv").write_text("".join(pairs[32:]))
    t5.train(pairs, tmp_path / "vocabulary.model", 40)
    (tmp_path / "my_tasks.py").write_text(MODULE)
    yield tmp_path
    gin.clear_config()
    if sys.modules.pop("my_tasks", None):
        seqio.TaskRegistry.remove("my_questions")
        seqio.MixtureRegistry.remove("my_mixture")


def test_the_module_is_about_ten_lines():
    statements = [line for line in MODULE.splitlines() if line and "import" not in line]
    assert len(statements) < 15


def test_a_vocabulary_is_trained_on_its_text(folder, capsys):
    (folder / "vocabulary.model").unlink()
    main_module.main([re.sub("=900$", "=28", argument) for argument in TRAINS_VOCABULARY])
    told, _ = capsys.readouterr().out.splitlines()
    assert told == "wrote vocabulary.model: 28 pieces; a model needs VOCAB_SIZE >= 128, such as 128"
    assert (folder / "vocabulary.model").is_file()


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", PAGE))
def test_a_link_of_the_page_leads_somewhere(target):
    assert (DOCS / target).exists()


def test_its_lines_are_shown_as_they_are_and_as_tokens(folder, capsys):
    vocabulary_of_test = "--gin.VOCABULARY_PATH='vocabulary.model'"
    command = ["tasks", "my_mixture", "--module=my_tasks", "--num_examples=1", vocabulary_of_test]
    main_module.main(command)
    printed = capsys.readouterr().out
    assert "line: what comes after 0\t1" in printed and "targets decoded: 1" in printed


def test_a_model_is_trained_and_evaluated_on_a_task_outside_the_package(folder, capsys):
    main_module.main([*TRAINS, *SMALL, "--gin.TRAIN_STEPS=2"])
    main_module.main([*EVALUATES, *SMALL])
    (path,) = (folder / "runs/mine").glob("evaluations/*_validation_2.json")
    found = json.loads(path.read_text())["my_questions"]
    assert {"nlp", "nlp_dropless", "accuracy"} <= set(found)
    assert "my_questions" in capsys.readouterr().out


def test_a_run_is_fine_tuned_on_it_in_the_vocabulary_of_that_run(folder, capsys):
    main_module.main([*TRAINS, *SMALL, "--gin.TRAIN_STEPS=1", "--gin.MODEL_DIR='runs/tiny'"])
    (folder / "vocabulary.model").unlink()
    main_module.main(PREVIEWS)
    assert "line: what comes after 0\t1" in capsys.readouterr().out
    small = ["--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=4"]
    main_module.main([*FINETUNES, *small])
    main_module.main([*EVALUATES_IT, *small[1:]])
    (path,) = (folder / "runs/mine_finetuned").glob("evaluations/*_validation_2.json")
    assert "accuracy" in json.loads(path.read_text())["my_questions"]


def error_of(arguments, capsys):
    """The last line on stderr of a command that ends with status 2."""
    with pytest.raises(SystemExit) as end:
        main_module.main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_line_that_cannot_be_parsed_or_is_not_utf_8_is_one_line_before_training(
    split, folder, capsys
):
    # Behind those that are counted.
    before, line = {"train": (1010, "no tab"), "validation": (20, "caf\xe9 or tea\tcaf\xe9")}[split]
    text = "a question\tan answer\n" * before + line
    (folder / f"{split}.tsv").write_text(text, encoding="latin-1")
    what, shown = {"train": ("Expect 2 fields but have 1", line)}.get(
        split, ("not UTF-8", "caf\ufffd or tea\\tcaf\ufffd")
    )
    assert error_of([*TRAINS, *SMALL], capsys) == (
        f"switch-tf: error: 'my_questions', split '{split}': {split}.tsv:{before + 1}: "
        f"'{shown}': {what}: fix or remove the record, or change the task's preprocessors"
    )
    assert not (folder / "runs/mine").exists()


def test_a_missing_file_is_named_with_the_folder_that_it_was_looked_for_in(folder, capsys):
    (folder / "validation.tsv").unlink()
    assert error_of([*TRAINS, *SMALL], capsys) == (
        "switch-tf: error: 'my_questions', split 'validation': validation.tsv; No such file or "
        f"directory: create it, or name it so that it is found from {folder}, such as by its "
        "absolute path"
    )
