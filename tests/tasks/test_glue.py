import pytest
import seqio

from switch_tf.data import registry
from switch_tf.tasks import glue

pytestmark = pytest.mark.usefixtures("official")


def test_rows_of_qqp_that_a_line_break_parts_are_left_out_and_counted(official, capsys):
    assert [example["idx"] for example in glue.source("qqp").examples("train")] == [0, 3]
    path = official / "QQP/train.tsv"
    assert capsys.readouterr().out == (
        f"{path}: 2 records skipped (as TFDS does), the first: {path}:3: an incomplete row\n"
    )


def test_mrpc_is_parted_by_the_list_of_ids():
    source = glue.source("mrpc")
    parts = {split: [e["idx"] for e in source.examples(split)] for split in source.splits}
    assert parts == {"train": [0, 3], "validation": [1, 2], "test": [0]}
    assert [example["label"] for example in source.examples("test")] == [-1]


def test_mnli_trains_as_one_task_and_is_evaluated_as_two():
    splits = {
        name: seqio.get_mixture_or_task(name).splits
        for name in ("glue_mnli", "glue_mnli_matched", "glue_mnli_mismatched")
    }
    assert splits == {
        "glue_mnli": ("train",),
        "glue_mnli_matched": ("validation",),
        "glue_mnli_mismatched": ("validation",),
    }


def test_the_average_is_over_metrics_that_the_tasks_report():
    evaluated = {
        task.name for task in seqio.get_mixture_or_task("glue").tasks if "validation" in task.splits
    }
    found = {}
    for name in evaluated:
        task = seqio.get_mixture_or_task(name)
        for metric in task.metric_fns:
            found.setdefault(name, {}).update(metric([0, 1, 1], [0, 1, 1]))
    assert registry.average("glue", found) == pytest.approx(100)
    for name in evaluated:
        assert registry.average("glue", found | {name: {}}) is None
