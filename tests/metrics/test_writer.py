import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from switch_tf import storage
from switch_tf.layers.routing import layer_figures
from switch_tf.metrics import writer as writer_lib
from switch_tf.metrics.load_picture import load_picture
from switch_tf.metrics.writer import MetricsWriter, read_metrics

LAYERS = ("encoder/layer_1", "decoder/layer_1")
RATES = {"tokens_per_second": 1234.5, "input_wait_share": 0.25, "seconds": 0.5}


def metrics_of(step, layers=LAYERS):
    """Figures as `TrainStep` returns them: 4 experts, ten tokens of which eight found room."""
    found = {
        "load_E": np.array([4.0, 3.0, 2.0, 1.0], np.float32),
        "tokens": 10.0,
        "kept": 8.0,
        "entropy": 13.0,
        "gate": 5.0,
        "z_loss": 20.0,
        "balance": 11.0,
        "balance_weight": 10.0,
        "token_balance": 12.5,
        "load_balancing_coef": 0.01,
        "max_logit": 3.0,
    }
    return {
        "loss": 5.0 - step / 100,
        "nlp": -4.5,
        "accuracy": 0.125,
        "z_loss": 0.01,
        "tokens": 10.0,
        "learning_rate": 0.01,
        "routing": {layer: layer_figures(found) for layer in layers},
        "not_finite": [],
    }


def events_of(folder):
    """TensorBoard's reading of a run's events: kind -> tag -> list of events."""
    every = {"scalars": 0, "images": 0, "tensors": 0}
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance=every).Reload()
    read = {"scalars": reader.Scalars, "images": reader.Images, "tensors": reader.Tensors}
    found = {kind: {tag: read[kind](tag) for tag in reader.Tags()[kind]} for kind in every}
    text = reader.SummaryMetadata("config").plugin_data if "config" in found["tensors"] else None
    return found | {"plugin of the text": text and text.plugin_name}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, events) of a run of 25 steps with one evaluation and a text."""
    folder = tmp_path_factory.mktemp("run")
    writer = MetricsWriter(str(folder), image_period=10)
    writer.text("config", "A = 1\nB = %A")
    for step in range(1, 26):
        writer.train(step, metrics_of(step), RATES)
    assert writer.evaluated(25) == {}
    writer.evaluation(25, "copy", {"nlp": -1.5, "tokens": 40.0})
    assert writer.evaluated(25) == {"copy": {"nlp", "tokens"}}
    writer.close()
    return folder, events_of(folder)


@pytest.mark.parametrize(
    "tag, value",
    {
        "train/loss": 4.75,
        "train/nlp": -4.5,
        "train/accuracy": 0.125,
        "train/z_loss": 0.01,
        "train/learning_rate": 0.01,
        "train/tokens_per_second": 1234.5,
        "train/input_wait_share": 0.25,
        "routing/load_balancing_loss/encoder/layer_1": 1.25,
        "routing/weighted_loss/encoder/layer_1": 0.011,
        "routing/z_loss/decoder/layer_1": 2.0,
        "routing/entropy/decoder/layer_1": 1.3,
        "routing/dropped/decoder/layer_1": 0.2,
        "routing/gate_mean/encoder/layer_1": 0.5,
        "routing/max_logit/encoder/layer_1": 3.0,
        "load/encoder/layer_1/expert_0": 0.4,
        "load/decoder/layer_1/expert_3": 0.1,
        "eval/copy/nlp": -1.5,
    }.items(),
)
def test_tensorboard_shows_a_figure_under_its_tag(run, tag, value):
    events = run[1]["scalars"][tag]
    assert [e.step for e in events] == ([25] if tag.startswith("eval") else list(range(1, 26)))
    assert events[-1].value == pytest.approx(value, rel=1e-5)


def test_every_layer_has_every_figure_of_routing(run):
    tags = {tag for tag in run[1]["scalars"] if tag.startswith(("routing/", "load/"))}
    figures = set(metrics_of(1)["routing"][LAYERS[0]]) - {"load_E"}
    expected = {f"routing/{name}/{layer}" for name in figures for layer in LAYERS}
    expected |= {f"load/{layer}/expert_{i}" for layer in LAYERS for i in range(4)}
    assert tags == expected


def test_the_load_per_expert_is_pictured_at_the_first_step_and_now_and_then(run):
    events = run[1]["images"]["load per expert"]
    assert [event.step for event in events] == [1, 10, 20]
    expected = load_picture(metrics_of(1)["routing"])
    assert all(event.encoded_image_string == expected for event in events)


def test_a_text_is_shown_as_it_is(run):
    (event,) = run[1]["tensors"]["config"]
    assert list(event.tensor_proto.string_val) == [b"```\nA = 1\nB = %A\n```"]
    assert run[1]["plugin of the text"] == "text"


def test_programs_read_the_same_figures(run):
    records = read_metrics(str(run[0]))
    assert [record["step"] for record in records] == [*range(1, 26), 25]
    assert records[-1] == {
        "step": 25,
        "kind": "evaluation",
        "task": "copy",
        "split": "validation",
        "nlp": -1.5,
        "tokens": 40.0,
    }
    first, expected = records[0], metrics_of(1)
    assert first["kind"] == "train"
    for name in ("loss", "nlp", "accuracy", "z_loss", "tokens", "learning_rate"):
        assert first[name] == expected[name]
    assert {name: first[name] for name in RATES} == RATES
    assert first["routing"].keys() == set(LAYERS)
    layer = first["routing"][LAYERS[1]]
    assert layer["load_E"] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert layer["dropped"] == pytest.approx(0.2)


def test_a_dense_model_has_neither_routing_nor_picture(tmp_path):
    writer = MetricsWriter(str(tmp_path))
    writer.train(1, metrics_of(1, layers=()), RATES)
    writer.close()
    events = events_of(tmp_path)
    assert "train/loss" in events["scalars"] and events["images"] == {}
    assert {tag.split("/")[0] for tag in events["scalars"]} == {"train"}
    assert read_metrics(str(tmp_path))[0]["routing"] == {}


def write_run(folder, steps, restored_step=0, evaluate=()):
    """Writes the records of `steps`, as a process that restored `restored_step` does."""
    writer = MetricsWriter(str(folder), restored_step)
    for step in steps:
        writer.train(step, metrics_of(step), RATES)
        if step in evaluate:
            writer.evaluation(step, "copy", {"nlp": -1.0})
    writer.close()


def steps_of(folder):
    return [(record["step"], record["kind"]) for record in read_metrics(str(folder))]


def test_records_beyond_the_restored_step_are_dropped(tmp_path):
    write_run(tmp_path, range(1, 8), evaluate=(3, 6))
    write_run(tmp_path, [5, 6], restored_step=4)
    expected = [(1, "train"), (2, "train"), (3, "train"), (3, "evaluation"), (4, "train")]
    assert steps_of(tmp_path) == [*expected, (5, "train"), (6, "train")]


def test_a_run_that_starts_anew_drops_all_records(tmp_path):
    write_run(tmp_path, [1, 2, 3])
    write_run(tmp_path, [1])
    assert steps_of(tmp_path) == [(1, "train")]


@pytest.mark.parametrize("restored_step, expected", [(7, (3, 6)), (6, (3, 6)), (5, (3,)), (2, ())])
def test_evaluations_of_steps_that_are_kept_are_known(restored_step, expected, tmp_path):
    write_run(tmp_path, range(1, 8), evaluate=(3, 6))
    writer = MetricsWriter(str(tmp_path), restored_step)
    found = {step: writer.evaluated(step) for step in range(8)}
    assert tuple(step for step, tasks in found.items() if tasks) == expected
    assert all("nlp" in figures for step in expected for figures in found[step].values())
    writer.close()


def test_a_half_written_last_line_is_passed_over(tmp_path):
    write_run(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    for part in ('{"step": 3, "kind": "tr', '{"step": 3, "kind": "train"}'):
        whole = path.read_text()
        path.write_text(whole + part)
        assert steps_of(tmp_path) == [(1, "train"), (2, "train")]
        # Nor does the next process write on behind it.
        write_run(tmp_path, [3], restored_step=2)
        assert steps_of(tmp_path) == [(1, "train"), (2, "train"), (3, "train")]
        assert all(json.loads(line) for line in path.read_text().splitlines())
        path.write_text(whole)


def test_a_record_can_be_read_while_the_run_goes_on(tmp_path):
    writer = MetricsWriter(str(tmp_path))
    writer.train(1, metrics_of(1), RATES)
    assert steps_of(tmp_path) == [(1, "train")]
    writer.close()


def test_a_remote_record_is_written_now_and_then_and_with_an_evaluation(monkeypatch):
    now, flushed = [1000.0], []
    monkeypatch.setattr(writer_lib.time, "monotonic", lambda: now[0])
    writer = MetricsWriter("ram://written/run")
    flush = writer.flush
    monkeypatch.setattr(writer, "flush", lambda: (flushed.append(now[0]), flush()))
    for seconds in (1, 59, 61, 62):
        now[0] = 1000.0 + seconds
        writer.train(seconds, metrics_of(seconds, ()), RATES)
    assert flushed == [1061.0]
    writer.evaluation(62, "copy", {"nlp": -1.0})
    assert flushed == [1061.0, 1062.0]
    writer.close()
    assert [record["step"] for record in read_metrics("ram://written/run")] == [1, 59, 61, 62, 62]
    storage.remove_folder("ram://written")


def test_a_process_that_is_not_the_chief_knows_the_evaluations_and_writes_nothing(
    tmp_path, monkeypatch
):
    chief = MetricsWriter(str(tmp_path))
    chief.evaluation(1, "copy", {"nlp": -1.0})
    chief.close()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(writer_lib.runtime, "is_chief", lambda: False)
    writer = MetricsWriter(str(tmp_path), restored_step=1)
    writer.text("config", "A = 1")
    writer.train(2, metrics_of(2), RATES)
    writer.evaluation(2, "copy", {"nlp": -0.5})
    writer.flush()
    writer.close()
    assert [writer.evaluated(step) for step in (1, 2)] == [{"copy": {"nlp"}}] * 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_no_records_where_nothing_ran(tmp_path):
    assert read_metrics(str(tmp_path / "nowhere")) == []


def test_tensorboard_forgets_steps_that_are_made_again(tmp_path):
    for restored in (0, 1):
        writer = MetricsWriter(str(tmp_path), restored_step=restored)
        for step in range(restored + 1, 4):
            writer.train(step, metrics_of(step + 10 * restored, ()), RATES)
        writer.close()
    scalars = events_of(tmp_path)["scalars"]["train/loss"]
    assert [event.step for event in scalars] == [1, 2, 3]
