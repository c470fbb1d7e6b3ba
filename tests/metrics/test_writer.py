import json
import math
import re
import shutil
from pathlib import Path

import gin
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from switch_tf import config, storage
from switch_tf.errors import UserError
from switch_tf.layers.routing import layer_figures
from switch_tf.metrics import writer as writer_lib
from switch_tf.metrics.events import Events
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
        "norms": {"gradient": {"all": 5.0, "embedding": 3.0}},
        "routing": {layer: layer_figures(found) for layer in layers},
        "not_finite": [],
    }


def events_of(folder):
    """TensorBoard's reading of a run's events: kind -> tag -> list of events."""
    every = {"scalars": 0, "images": 0, "tensors": 0}
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance=every).Reload()
    read = {"scalars": reader.Scalars, "images": reader.Images, "tensors": reader.Tensors}
    found = {kind: {tag: read[kind](tag) for tag in reader.Tags()[kind]} for kind in every}
    tag = "operative config"
    text = reader.SummaryMetadata(tag).plugin_data if tag in found["tensors"] else None
    return found | {"plugin of the text": text and text.plugin_name}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, events) of a run of 25 steps with one evaluation and a text."""
    folder = tmp_path_factory.mktemp("run")
    writer = MetricsWriter(str(folder), log_period=1, routing_period=1, image_period=10)
    writer.start("A = 1\nB = %A", {"BATCH_SIZE": 8, "TASK": "copy", "LENGTHS": {"inputs": 4}})
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
        "routing/load_entropy/encoder/layer_1": 0.923220,
        "routing/dropped": 0.2,
        "routing/load_entropy": 0.923220,
        "norms/gradient/embedding": 3.0,
        "eval/copy/nlp": -1.5,
    }.items(),
)
def test_tensorboard_shows_a_figure_under_its_tag(run, tag, value):
    events = run[1]["scalars"][tag]
    assert [e.step for e in events] == ([25] if tag.startswith("eval") else list(range(1, 26)))
    assert events[-1].value == pytest.approx(value, rel=1e-5)


def test_every_layer_has_every_figure_of_routing(run):
    tags = {tag for tag in run[1]["scalars"] if tag.startswith("routing/")}
    figures = set(metrics_of(1)["routing"][LAYERS[0]]) - {"load_E"} | {"load_entropy"}
    means = {f"routing/{name}" for name in figures}
    assert tags == means | {f"{mean}/{layer}" for mean in means for layer in LAYERS}


def test_the_load_per_expert_is_pictured_at_the_first_step_and_now_and_then(run):
    events = run[1]["images"]["load per expert"]
    assert [event.step for event in events] == [1, 10, 20]
    expected = load_picture(metrics_of(1)["routing"])
    assert all(event.encoded_image_string == expected for event in events)


def test_a_text_is_shown_as_it_is(run):
    (event,) = run[1]["tensors"]["operative config"]
    assert list(event.tensor_proto.string_val) == [b"```\nA = 1\nB = %A\n```"]
    assert run[1]["plugin of the text"] == "text"


def test_the_settings_are_in_the_hparams_tab(run):
    reader = EventAccumulator(str(run[0] / "tensorboard")).Reload()
    content = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["BATCH_SIZE"].number_value == 8
    assert found["TASK"].string_value == "copy"
    assert found["LENGTHS"].string_value == "{'inputs': 4}"


def test_a_record_has_the_means_since_the_last_one_and_no_step_is_lost(tmp_path):
    """After the first step, each period, with a checkpoint, with an evaluation and at the end."""
    writer = MetricsWriter(str(tmp_path), log_period=4)
    for step in range(1, 12):
        writer.train(step, metrics_of(step), RATES)
        if step == 6:
            writer.flush()
        if step == 10:
            writer.evaluation(step, "copy", {"nlp": -1.0})
    writer.close()
    records = [r for r in read_metrics(str(tmp_path)) if r["kind"] == "train"]
    found = [(r["step"], r["steps"]) for r in records]
    assert found == [(1, 1), (4, 3), (6, 2), (8, 2), (10, 2), (11, 1)]
    assert records[1]["loss"] == pytest.approx(np.mean([4.98, 4.97, 4.96]))
    assert events_of(tmp_path)["scalars"]["train/loss"][1].value == pytest.approx(4.97)


def test_each_layer_and_pictures_have_periods_of_their_own(tmp_path):
    writer = MetricsWriter(str(tmp_path), log_period=2, routing_period=5, image_period=7)
    for step in range(1, 13):
        writer.train(step, metrics_of(step), RATES)
    writer.close()
    records = read_metrics(str(tmp_path))
    assert [r["step"] for r in records] == [1, 2, 4, 6, 8, 10, 12]
    assert all(r["routing_mean"]["dropped"] == pytest.approx(0.2) for r in records)
    # In the first record, and in the first one at or after each multiple.
    assert [r["step"] for r in records if "routing" in r] == [1, 6, 10]
    events = events_of(tmp_path)
    assert [e.step for e in events["images"]["load per expert"]] == [1, 8]
    assert [e.step for e in events["scalars"][f"routing/dropped/{LAYERS[0]}"]] == [1, 6, 10]


def test_the_log_of_switch_base_takes_megabytes(tmp_path):
    """100,000 steps of 12 layers of 128 experts, by a hundredth of them."""
    layers = [f"model/encoder/layer_{n}/feed_forward/switch_ffn" for n in range(12)]
    figures = metrics_of(1, layers)
    random = np.random.default_rng(0)
    for values in figures["routing"].values():
        values["load_E"] = random.dirichlet(np.ones(128)).astype(np.float32)
    groups = {f"encoder/group_{n}": random.random() for n in range(13)}
    figures["norms"] = {kind: groups for kind in ("gradient", "update", "weight")}
    writer = MetricsWriter(str(tmp_path))
    for step in range(1, 1001):
        writer.train(step, figures, RATES)
    writer.close()
    taken = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 100 * taken < 200e6


def test_other_writers_get_the_scalars_of_tensorboard(tmp_path):
    class Others:
        def __init__(self, model_dir):
            self.model_dir, self.found, self.is_closed = model_dir, {}, False
            made.append(self)

        def scalars(self, step, values):
            self.found |= {(step, name): value for name, value in values.items()}

        def close(self):
            self.is_closed = True

    made = []
    writer = MetricsWriter(str(tmp_path), log_period=1, others=[Others])
    writer.train(1, metrics_of(1), RATES)
    writer.evaluation(1, "copy", {"nlp": -1.0})
    writer.close()
    (other,) = made
    assert other.model_dir == str(tmp_path) and other.is_closed
    assert other.found[1, "eval/copy/nlp"] == -1.0
    shown = events_of(tmp_path)["scalars"]
    assert {name for _, name in other.found} == set(shown)


def test_the_writer_of_the_page_is_put_in_by_gin(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/logging.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (settings,) = re.findall(r"^```\n(import my_log.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_log.py").write_text(code)
    (tmp_path / "my_log.gin").write_text(settings)
    monkeypatch.chdir(tmp_path)
    config.load(["my_log.gin"], ["MetricsWriter.log_period=1"])
    try:
        writer = MetricsWriter(str(tmp_path))
    finally:
        gin.clear_config()
    writer.train(1, metrics_of(1), RATES)
    writer.close()
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert "1 train/loss 4.99" in lines and "1 routing/dropped 0.2" in lines


def test_figures_of_the_data_are_those_of_the_last_process(tmp_path):
    for restored, share in ((0, 0.5), (2, 0.25)):
        writer = MetricsWriter(str(tmp_path), restored, log_period=1)
        writer.data("copy", {"truncated_inputs": share})
        for step in (restored + 1, restored + 2):
            writer.train(step, metrics_of(step), RATES)
        writer.close()
    found = [r for r in read_metrics(str(tmp_path)) if r["kind"] == "data"]
    assert found == [{"step": 2, "kind": "data", "task": "copy", "truncated_inputs": 0.25}]
    tag = "data/copy/truncated_inputs"
    assert [e.value for e in events_of(tmp_path)["scalars"][tag]] == [0.5, 0.25]


@pytest.mark.parametrize("gone_back", [0.0, 3600.0])
def test_events_are_read_in_order_whatever_the_clock_says(tmp_path, monkeypatch, gone_back):
    """TensorBoard sorts files by names: of one second, "9" is behind "10" there."""
    clock = {"now": 1.8e9}
    monkeypatch.setattr("time.time", lambda: clock["now"])
    for restored in range(12):
        events = Events(str(tmp_path / "tensorboard"), restored)
        events.scalars(restored + 1, {"loss": float(restored)})
        events.close()
        clock["now"] -= gone_back
    found = events_of(tmp_path)["scalars"]["loss"]
    assert [event.value for event in found] == list(range(12))


@pytest.mark.parametrize("how", ["train", "evaluation", "bad_step", "goodput", "flush", "close"])
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, how):
    writer = MetricsWriter(str(tmp_path), log_period=100)
    writer.train(1, metrics_of(1), RATES)
    full = open("/dev/full", "a")
    monkeypatch.setattr(writer, "_records", full)
    monkeypatch.setattr(storage, "is_still_at", lambda *_: True)
    writer.train(2, metrics_of(2), RATES)
    calls = {
        "train": (100, metrics_of(100), RATES),
        "evaluation": (2, "copy", {"nlp": -1.0}),
        "bad_step": (2, 3, "loss is nan", math.nan),
        "goodput": (2, {"steps": 1.0}),
    }
    with pytest.raises(UserError, match=re.escape(f"cannot write to MODEL_DIR '{tmp_path}': ")):
        getattr(writer, how)(*calls.get(how, ()))


def test_a_log_that_was_removed_begins_again_aloud(tmp_path, capsys):
    folder = tmp_path / "run"
    writer = MetricsWriter(str(folder), log_period=1)
    writer.train(1, metrics_of(1), RATES)
    writer.evaluation(1, "copy", {"nlp": -1.0})
    shutil.rmtree(folder)
    for step in (2, 3):
        writer.train(step, metrics_of(step), RATES)
    writer.close()
    assert [r["step"] for r in read_metrics(str(folder))] == [1, 2, 3]
    assert read_metrics(str(folder))[0]["kind"] == "evaluation"
    assert [event.step for event in events_of(folder)["scalars"]["train/loss"]] == [2, 3]
    told = f"{folder / 'metrics.jsonl'} was removed or moved: it begins again behind step 1"
    assert capsys.readouterr().out == f"{told}, with the evaluations of before\n"


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
    assert {tag.split("/")[0] for tag in events["scalars"]} == {"train", "norms"}
    assert read_metrics(str(tmp_path))[0].keys().isdisjoint({"routing", "routing_mean"})


def write_run(folder, steps, restored_step=0, evaluate=()):
    """Writes the records of `steps`, as a process that restored `restored_step` does."""
    writer = MetricsWriter(str(folder), restored_step, log_period=1)
    for step in steps:
        writer.train(step, metrics_of(step), RATES)
        if step in evaluate:
            writer.evaluation(step, "copy", {"nlp": -1.0})
    writer.close()


def steps_of(folder):
    return [(record["step"], record["kind"]) for record in read_metrics(str(folder))]


def test_records_beyond_the_restored_step_are_dropped(tmp_path, capsys):
    write_run(tmp_path, range(1, 8), evaluate=(3, 6))
    write_run(tmp_path, [5, 6], restored_step=4)
    assert capsys.readouterr().out == "records of steps 5 to 7 are dropped, and made again\n"
    expected = [(1, "train"), (2, "train"), (3, "train"), (3, "evaluation"), (4, "train")]
    assert steps_of(tmp_path) == [*expected, (5, "train"), (6, "train")]


def test_what_time_went_on_is_logged_and_known_to_the_process_that_resumes(tmp_path):
    writer = MetricsWriter(str(tmp_path), log_period=1)
    assert writer.earlier == {} and writer.lost_seconds == 0
    for step in range(1, 8):
        writer.train(step, metrics_of(step), RATES)
        if step in (2, 4, 6):
            writer.goodput(step, {"steps": 3.0 * step, "start": 1.0 * step})
    writer.close()
    events = events_of(tmp_path)["scalars"]
    assert [(e.step, e.value) for e in events["goodput/steps"]] == [(2, 0.75), (4, 0.75), (6, 0.75)]
    assert {"step": 4, "kind": "goodput", "steps": 12.0, "start": 4.0} in read_metrics(
        str(tmp_path)
    )
    writer = MetricsWriter(str(tmp_path), restored_step=4)
    # Steps 5 to 7 took half a second each.
    assert writer.earlier == {"steps": 12.0, "start": 4.0} and writer.lost_seconds == 1.5
    writer.close()


def test_a_run_that_starts_anew_keeps_the_old_files_under_other_names(tmp_path, capsys):
    write_run(tmp_path, [1, 2, 3])
    log = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "best.json").write_text("the best")
    capsys.readouterr()
    write_run(tmp_path, [1, 2, 3])
    assert capsys.readouterr().out == (
        f"{tmp_path} has records up to step 3, kept as metrics_until_3.jsonl and "
        "best_until_3.json\n"
    )
    assert steps_of(tmp_path) == [(1, "train"), (2, "train"), (3, "train")]
    write_run(tmp_path, [1])
    assert capsys.readouterr().out.endswith(", kept as metrics_until_3_2.jsonl\n")
    assert steps_of(tmp_path) == [(1, "train")]
    assert (tmp_path / "metrics_until_3.jsonl").read_bytes() == log
    assert (tmp_path / "best_until_3.json").read_text() == "the best"
    assert not (tmp_path / "best.json").exists()


def test_a_run_that_had_not_made_a_step_has_nothing_to_keep(tmp_path, capsys):
    for _ in range(2):
        writer = MetricsWriter(str(tmp_path))
        writer.data("copy", {"truncated_inputs": 0.5})
        writer.close()
    assert capsys.readouterr().out == ""
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


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
    writer = MetricsWriter("ram://written/run", log_period=1)
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
    writer.start("A = 1", {})
    writer.data("copy", {"truncated_inputs": 0.5})
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
        writer = MetricsWriter(str(tmp_path), restored_step=restored, log_period=1)
        for step in range(restored + 1, 4):
            writer.train(step, metrics_of(step + 10 * restored, ()), RATES)
        writer.close()
    scalars = events_of(tmp_path)["scalars"]["train/loss"]
    assert [event.step for event in scalars] == [1, 2, 3]
