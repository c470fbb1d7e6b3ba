import pytest
import seqio

from switch_tf.data import registry
from switch_tf.pages import task_table
from switch_tf.tasks.parts import catalogue
from switch_tf.tasks.sources.official import OfficialSource
from tests.tasks import test_super_glue
from tests.tasks.sources import test_official


@pytest.fixture(autouse=True)
def _all_tasks():
    registry.load_project_modules()


def test_every_entry_has_a_row():
    rows = [line.split(" | ")[0] for line in task_table.lines() if line.startswith("| `")]
    assert rows == [f"| `{entry.name}`" for entry in catalogue.entries()]


def test_every_task_that_the_page_calls_compared_with_tfds_is():
    compared = {*test_official.CASES, *test_super_glue.TEXTS}
    official = {
        entry.name
        for entry in catalogue.entries()
        if isinstance(getattr(registry.find(entry.name), "source", None), OfficialSource)
    }
    assert official <= compared


def test_a_mixture_whose_tasks_are_not_listed_shows_the_first_ones_files():
    (row,) = [line for line in task_table.lines() if line.startswith("| `mc4`")]
    assert "c4/multilingual:3.1.0 | `multilingual/c4-{af,af-validation}.*.json.gz`, and so" in row
    assert row.endswith("| B, C |")
    assert isinstance(registry.find("mc4"), seqio.Mixture)


@pytest.mark.parametrize(
    "paths, short",
    [
        (["a/b.c"], "a/b.c"),
        (["a/b.c", "a/b.c"], "a/b.c"),
        (["BoolQ/train.jsonl", "BoolQ/test.jsonl"], "BoolQ/{train,test}.jsonl"),
        (["M/dev_matched.tsv", "M/test_matched.tsv"], "M/{dev,test}_matched.tsv"),
        (["c/all_train.txt", "c/all_val.txt"], "c/all_{train,val}.txt"),
        (["s/train-v1.1.json", "s/dev-v1.1.json"], "s/{train,dev}-v1.1.json"),
        (["train", "test"], "{train,test}"),
    ],
)
def test_paths_are_shortened_as_a_shell_writes_them(paths, short):
    assert task_table.shorten(paths) == short
