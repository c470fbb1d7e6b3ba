import json

from switch_tf import runtime
from switch_tf.data import registry
from switch_tf.metrics import best
from switch_tf.metrics.best import Peak


def record(step, task, **figures):
    return {"step": step, "kind": "evaluation", "task": task} | figures


RECORDS = [
    record(200, "boolq", nlp=-1.0, accuracy=60.0, tokens=9.0, dropped=0.5),
    record(200, "cb", accuracy=80.0),
    record(400, "boolq", nlp=-0.5, accuracy=55.0, tokens=9.0, dropped=0.1),
    record(400, "cb", accuracy=90.0),
    record(600, "boolq", nlp=-0.7, accuracy=60.0, tokens=9.0, dropped=0.9),
]


def test_the_peak_of_each_task_and_metric_has_its_first_step():
    assert best.peaks(RECORDS) == {
        "boolq": {"nlp": Peak(-0.5, 400), "accuracy": Peak(60.0, 200)},
        "cb": {"accuracy": Peak(90.0, 400)},
    }


def test_what_is_no_number_is_no_peak():
    """T5's correlations are NaN where all predictions are alike."""
    records = [record(200, "stsb", pearson=float("nan")), record(400, "stsb", pearson=80.0)]
    assert best.peaks(records) == {"stsb": {"pearson": Peak(80.0, 400)}}
    assert best.peaks(records[:1]) == {"stsb": {}}


def test_a_mixtures_average_is_that_of_its_tasks_peaks(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_averages", {})
    registry.add_average("few", {"boolq": ("accuracy",), "cb": ("accuracy",)})
    found = best.peaks(RECORDS)
    assert list(best.lines("few", found)) == [
        "best of boolq: accuracy 60 at step 200, nlp -0.5 at step 400",
        "best of cb: accuracy 90 at step 400",
        "best of few: average of its tasks' peaks 75",
    ]
    best.write(str(tmp_path), found, kept=[400])
    written = json.loads((tmp_path / "best.json").read_text())
    assert written == {
        "boolq": {
            "accuracy": {"value": 60.0, "step": 200},
            "nlp": {"value": -0.5, "step": 400, "checkpoint": "checkpoint_400"},
        },
        "cb": {"accuracy": {"value": 90.0, "step": 400, "checkpoint": "checkpoint_400"}},
    }


def test_evaluations_of_different_sizes_are_told_in_one_line():
    records = [*RECORDS, record(800, "boolq", nlp=-0.1, tokens=1234.0), record(800, "cb", nlp=0.0)]
    assert best.sizes_line(RECORDS) is None
    assert best.sizes_line(records) == (
        "the best are among evaluations of different sizes: of boolq, 9 target tokens from step "
        "200, 1,234 target tokens from step 800"
    )


def test_a_process_that_is_not_the_chief_leaves_the_file_to_it(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "is_chief", lambda: False)
    best.write(str(tmp_path), best.peaks(RECORDS))
    assert list(tmp_path.iterdir()) == []


def test_without_an_evaluation_there_is_nothing_to_tell():
    assert best.peaks([]) == {}
    assert list(best.lines("any", {})) == []
