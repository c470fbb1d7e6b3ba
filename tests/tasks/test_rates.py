import types

import pytest
import seqio

from tasks import glue, rates, super_glue  # noqa: F401 - register tasks
from tests.tasks.official_files import set_macros, write_file


@pytest.fixture(autouse=True)
def configured(official):
    rates._estimate.cache_clear()
    return official


def tokens(name):
    return rates.tokens(seqio.TaskRegistry.get(name))


def counted(name):
    """Tokens of inputs and targets, without ends, of a task's train split."""
    task = seqio.TaskRegistry.get(name)
    examples = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    return sum(len(e["inputs"]) + len(e["targets"]) - 2 for e in examples)


@pytest.mark.parametrize("name", ["glue_cola", "super_glue_wsc_train", "super_glue_multirc"])
def test_the_rate_is_the_number_of_tokens(name):
    # WSC leaves one of two examples out, MultiRC makes two of a line.
    assert tokens(name) == counted(name) > 0


def test_a_large_source_is_estimated_from_its_first_examples(monkeypatch):
    whole = counted("glue_mnli")
    monkeypatch.setattr(rates, "COUNTED_EXAMPLES", 1)
    task = seqio.TaskRegistry.get("glue_mnli")
    first = next(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    estimate = 3 * (len(first["inputs"]) + len(first["targets"]) - 2)
    assert tokens("glue_mnli") == estimate != whole


@pytest.mark.parametrize("name", ["glue_mnli_matched", "glue_wnli", "super_glue_wsc_eval"])
def test_a_task_without_a_train_split_has_none(name):
    assert tokens(name) == 0


def test_a_cached_task_tells_its_own():
    task = types.SimpleNamespace(
        splits=("train",),
        cache_dir="folder",
        output_features={"inputs": None, "targets": None},
        get_cached_stats=lambda split: {"inputs_tokens": 70, "targets_tokens": 30, "examples": 2},
    )
    assert rates.tokens(task) == 100


def test_it_is_counted_once_for_each_setting(monkeypatch, tmp_path):
    found = tokens("glue_cola")
    monkeypatch.setattr(seqio.Task, "preprocess_precache", None)
    assert tokens("glue_cola") == found
    monkeypatch.undo()

    write_file(tmp_path, "CoLA/train.tsv", "gj04\t1\t\tRain.\n" * 2)
    set_macros(DATA_DIR=str(tmp_path))
    assert tokens("glue_cola") < found


@pytest.mark.parametrize("mixture", ["glue", "super_glue"])
def test_a_mixture_is_blended_by_tokens(mixture):
    mixed = seqio.get_mixture_or_task(mixture)
    for task in mixed.tasks:
        assert mixed.get_rate(task) == tokens(task.name)
    lengths = {"inputs": 64, "targets": 16}
    dataset = mixed.get_dataset(lengths, "train", seed=0)
    assert {"inputs", "targets"} <= set(next(dataset.as_numpy_iterator()))


def test_wsc_and_dpr_are_in_super_glue_and_wnli_is_not_in_glue():
    assert {"dpr", "super_glue_wsc_train"} <= {
        task.name for task in seqio.get_mixture_or_task("super_glue").tasks
    }
    assert "glue_wnli" not in [task.name for task in seqio.get_mixture_or_task("glue").tasks]
