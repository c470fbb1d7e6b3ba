import contextlib
import io
import json
import math
import os
import re
import shutil
import signal

import gin
import pytest
import tensorflow as tf

from switch_tf import config, runtime, storage
from switch_tf.checkpoints.manager import Checkpoints
from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.commands import main as main_module
from switch_tf.data.feed import Feed
from switch_tf.errors import InputHangs, Interruption, UserError
from switch_tf.evaluation.evaluators import Evaluators
from switch_tf.evaluation.run import evaluate
from switch_tf.evaluation.teacher_forced import TeacherForcedEvaluator
from switch_tf.hosts import agreement
from switch_tf.metrics.progress import Progress
from switch_tf.metrics.writer import read_metrics
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.training import train as train_module
from switch_tf.training.step import TrainStep
from switch_tf.training.train import train
from tests import toy_task
from tests.data import cached_tasks

FILES = ["models/switch_tiny.gin", "layouts/expert_data.gin"]
STEPS = 6
SMALL = {
    "MESH_SHAPE": "batch:2",
    "NUM_EXPERTS": 4,
    "GROUPS_MULTIPLE": 2,
    "VOCAB_SIZE": 384,
    "TransformerEncoderDecoder.num_layers": 1,
    "TransformerEncoderDecoder.d_model": 16,
    "TransformerEncoderDecoder.d_ff": 32,
    "MIXTURE_OR_TASK_NAME": "toy_copy",
    "MIXTURE_OR_TASK_MODULE": "tests.toy_task",
    "TASK_FEATURE_LENGTHS": {"inputs": 8, "targets": 8},
    "BATCH_SIZE": 4,
}
RUN = {
    "TRAIN_STEPS": STEPS,
    "EVAL_PERIOD": 3,
    "CHECKPOINT_PERIOD": 3,
    "DROPOUT_RATE": 0.1,
    "LOG_PERIOD": 1,
    # Packed rows take another compilation of the evaluation.
    "PACK": False,
    # `finetuned` makes these, too.
    "Evaluation.dropless": False,
}
# Most runs take one task, since each takes time to set up and to evaluate.
MIXTURE = {"MIXTURE_OR_TASK_NAME": "toy_mixture"}


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def load(files, settings):
    # A reference goes as it is.
    texts = {k: v if str(v).startswith("@") else repr(v) for k, v in settings.items()}
    config.load(files, [f"{name}={text}" for name, text in texts.items()])


def pretrain(model_dir, profile_steps=range(0), **settings):
    load([*FILES, "runs/pretrain.gin"], SMALL | RUN | {"MODEL_DIR": str(model_dir)} | settings)
    train(profile_steps=profile_steps)


def records(model_dir, kind):
    return [r for r in read_metrics(str(model_dir)) if r["kind"] == kind]


def losses(model_dir):
    return {r["step"]: r["loss"] for r in records(model_dir, "train")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The MODEL_DIR of a run that was never stopped, of which two steps were profiled."""
    folder = tmp_path_factory.mktemp("whole")
    pretrain(folder, profile_steps=range(4, 6))
    return folder


def test_a_run_logs_each_step_evaluates_each_period_and_keeps_checkpoints(whole):
    assert list(losses(whole)) == list(range(1, STEPS + 1))
    evaluated = [(r["step"], r["task"]) for r in records(whole, "evaluation")]
    assert evaluated == [(3, "toy_copy"), (6, "toy_copy")]
    assert ModelDir(str(whole)).steps() == [3, 6]


def test_a_run_logs_what_its_time_went_on(whole):
    *_, last = records(whole, "goodput")
    spent = ("start", "compiling", "steps", "input", "evaluation", "saving")
    assert last["step"] == STEPS and all(last[kind] > 0 for kind in spent) and last["lost"] == 0
    seconds = sum(r["seconds"] * r["steps"] for r in records(whole, "train"))
    assert last["compiling"] + last["steps"] + last["input"] == pytest.approx(seconds)


def test_a_profile_is_written_for_tensorboard_and_its_shares_are_logged(whole):
    (record,) = records(whole, "profile")
    assert (record["step"], record["steps"]) == (5, 2)
    shares = {name: record[name] for name in ("computing", "collectives", "input", "other")}
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0
    # Two devices reduce gradients.
    assert shares["computing"] > 0 and shares["collectives"] > 0
    (file,) = (whole / "tensorboard").glob("plugins/profile/*/*.xplane.pb")
    assert file.stat().st_size > 10_000


def test_a_profile_that_cannot_be_written_is_a_warning_of_a_run_that_goes_on(
    tmp_path, monkeypatch, capsys
):
    stop = tf.profiler.experimental.stop

    def fail():
        stop(save=False)
        raise tf.errors.UnavailableError(None, None, "HTTP 503")

    monkeypatch.setattr(tf.profiler.experimental, "stop", fail)
    pretrain(tmp_path, profile_steps=range(1, 2), TRAIN_STEPS=2)
    told = f"warning: no profile is kept: cannot write to '{tmp_path}/tensorboard': HTTP 503"
    assert told in "".join(capsys.readouterr())
    assert ModelDir(str(tmp_path)).steps() == [2] and records(tmp_path, "profile") == []


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The MODEL_DIR of a run whose examples are truncated, and what it prints."""
    folder, told = tmp_path_factory.mktemp("cut"), io.StringIO()
    with contextlib.redirect_stdout(told):
        lengths = {"inputs": 4, "targets": 4}
        pretrain(folder, TRAIN_STEPS=1, TASK_FEATURE_LENGTHS=lengths, **MIXTURE)
    return folder, told.getvalue()


def test_the_start_says_what_matters_first_and_the_rest_in_a_file(cut):
    folder, told = cut
    told = told.splitlines()
    heads = [
        "trains on toy_mixture, split 'train': batches of 4 rows of 4 + 4 tokens (32 per step)",
        "model:",
    ]
    heads += ["per device: weights", "mesh:", "data:", "starts from", "evaluation: validation,"]
    heads += [
        "learning rate:",
        "loss:",
        "the model's settings, weights with their layouts, and Switch layers:",
    ]
    first = next(i for i, line in enumerate(told) if line.startswith("trains on"))
    for line, head in zip(told[first:], heads, strict=False):
        assert line.startswith(head)
    (data,) = (line for line in told if line.startswith("data:"))
    assert data.startswith("data: not cached, so in SeqIO's own order; ") and len(data) < 90
    description = (folder / "description.txt").read_text()
    for text in ("router: SwitchRouter", "model/embedding/table", "switch layer"):
        assert text in description and not any(line.startswith(text) for line in told)


def test_what_is_truncated_is_told_and_logged_by_task(cut):
    folder, told = cut
    for split in ("train", "validation"):
        assert re.search(
            rf"^split '{split}' of toy_copy: [\d.]+% of inputs and [1-9][\d.]+% of ", told, re.M
        )
    assert {r["task"] for r in records(folder, "data")} == {"toy_copy", "toy_copy_too"}
    longer = sum(1 + i % 5 + 1 > 4 for i in range(toy_task.NUM_VALIDATION))
    for record in records(folder, "evaluation"):
        assert record["truncated_targets"] == longer / toy_task.NUM_VALIDATION


def test_the_last_smaller_batch_is_evaluated_too(whole):
    targets = [len("abcdefgh"[i % 8] * (1 + i % 5)) + 1 for i in range(toy_task.NUM_VALIDATION)]
    assert {r["tokens"] for r in records(whole, "evaluation")} == {sum(targets)}


def test_run_json_has_what_a_report_needs(whole):
    facts = json.loads((whole / "run.json").read_text())
    assert facts["tokens_per_step"] == 4 * 16
    assert facts["parameters"] > 384 * 16
    assert 0 < facts["unigram_entropy"]["toy_copy"] < 4
    assert facts["dtype"] == "float32"
    assert facts["mesh_shape"] == "batch:2"
    assert facts["devices"] == {"type": "CPU", "number": 2}
    assert facts["versions"]["tensorflow"] == tf.__version__


def test_a_packed_run_with_another_optimizer_logs_its_rate_and_resumes_bit_for_bit(
    tmp_path, capsys
):
    own = {
        "PACK": True,
        "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 32},
        "ModelSetup.optimizer": "@AdamW",
        "AdamW.learning_rate": "@schedules.rsqrt()",
        "schedules.rsqrt.scale": 0.01,
        "TRAIN_STEPS": 4,
        "EVAL_PERIOD": 4,
    }
    pretrain(tmp_path / "whole", **own)
    pretrain(tmp_path / "parts", **own | {"TRAIN_STEPS": 2})
    pretrain(tmp_path / "parts", **own)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    # Rows hold several examples of at most six tokens.
    assert min(r["tokens"] for r in records(tmp_path / "whole", "train")) > 4 * 6
    assert rates(tmp_path / "whole") == pytest.approx([0.01 / 10] * 4)
    # Two slots of each weight.
    (counts,) = set(re.findall(r"(\d+) variables, (\d+) optimizer slots", capsys.readouterr().out))
    assert int(counts[1]) == 2 * int(counts[0])


def rates(model_dir):
    return [r["learning_rate"] for r in records(model_dir, "train")]


def test_a_fine_tuning_goes_on_with_the_optimizer_where_it_is_asked_to(whole, tmp_path, capsys):
    """Its slots and its step, which the schedule follows; the run's own steps count from 0."""
    own = {"INITIAL_CHECKPOINT_PATH": str(whole), "WARMUP_STEPS": 2, "TRAIN_STEPS": 4}
    capsys.readouterr()
    pretrain(tmp_path / "fresh", **own)
    told = capsys.readouterr().out
    assert "optimizer slots fresh" in told
    rsqrt = "learning rate: rsqrt(warmup_steps=2, scale=1.0) of"
    assert f"{rsqrt} the run's step: 0.707107 at the first update (step 0)" in told
    assert rates(tmp_path / "fresh") == pytest.approx([max(t, 2) ** -0.5 for t in range(4)])

    own["RESTORE_OPTIMIZER"] = True
    pretrain(tmp_path / "on", **own | {"TRAIN_STEPS": 2})
    told = capsys.readouterr().out
    assert "optimizer slots restored, and their step" in told
    assert (
        f"{rsqrt} the optimizer's step, {STEPS} ahead of the run's: 0.408248 at the first update "
        f"(step {STEPS})"
    ) in told
    # A resumed one goes on from there, and a next one from its end.
    pretrain(tmp_path / "on", **own)
    assert rates(tmp_path / "on") == pytest.approx([(STEPS + t) ** -0.5 for t in range(4)])
    assert losses(tmp_path / "on")[1] == losses(tmp_path / "fresh")[1]
    assert losses(tmp_path / "on")[2] != losses(tmp_path / "fresh")[2]
    next_one = {"INITIAL_CHECKPOINT_PATH": str(tmp_path / "on"), "TRAIN_STEPS": 1}
    pretrain(tmp_path / "next", **own | next_one)
    assert rates(tmp_path / "next")[0] == pytest.approx((STEPS + 4) ** -0.5)


def test_a_fine_tuning_keeps_what_is_frozen_and_resumes_with_it_alone(whole, tmp_path, capsys):
    own = {"INITIAL_CHECKPOINT_PATH": str(whole), "TRAIN_STEPS": 1, "FROZEN": ["router"]}
    pretrain(tmp_path, **own)
    assert "; frozen: 2 of " in capsys.readouterr().out
    before, after = (
        tf.train.load_checkpoint(f"{folder}/state")
        for folder in (whole / "checkpoint_6", tmp_path / "checkpoint_1")
    )
    for name in after.get_variable_to_shape_map():
        if not name.startswith("optimizer/"):
            same = (before.get_tensor(name) == after.get_tensor(name)).all()
            assert same == ("router" in name), name
    for other in ([], ["router", "norm"]):
        with pytest.raises(UserError, match="/.* has .*: use the model, .* and FROZEN that it"):
            pretrain(tmp_path, **own | {"FROZEN": other})
    pretrain(tmp_path, **own | {"TRAIN_STEPS": 2})
    assert list(losses(tmp_path)) == [1, 2]


def test_a_dense_model_starts_from_a_sparse_one_where_it_is_allowed(whole, tmp_path, capsys):
    own = {"INITIAL_CHECKPOINT_PATH": str(whole), "TRAIN_STEPS": 1}
    own["TransformerEncoderDecoder.expert_frequency"] = 0
    allowed = {"INITIAL_CHECKPOINT_FRESH": ["/ffn/"], "INITIAL_CHECKPOINT_SKIPPED": ["switch_ffn"]}
    with pytest.raises(UserError, match="lacks model/.*/ffn/.* and has model/.*/switch_ffn/"):
        pretrain(tmp_path / "refused", **own)
    assert ModelDir(str(tmp_path / "refused")).steps() == []
    capsys.readouterr()
    pretrain(tmp_path / "allowed", **own, **allowed)
    assert re.search(r"restored, \d+ \(.*/ffn/.*\) fresh, \d+ \(", capsys.readouterr().out)


def test_an_optimizer_that_the_checkpoint_has_not_is_one_line(whole, tmp_path):
    own = {"INITIAL_CHECKPOINT_PATH": str(whole), "RESTORE_OPTIMIZER": True}
    with pytest.raises(UserError) as caught:
        pretrain(tmp_path, **own, **{"Adafactor.beta1": 0.5})
    line = str(caught.value).splitlines()[0]
    assert "/m of shape" in line
    assert line.endswith(
        "use the model, the optimizer's settings and FROZEN that it was trained with, or "
        "RESTORE_OPTIMIZER=False"
    )


def test_a_run_tells_and_keeps_each_tasks_best_evaluation(tmp_path, capsys):
    pretrain(tmp_path, **MIXTURE)
    there = ModelDir(str(tmp_path)).steps()
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "best.json").read_text())
    evaluations, tasks = records(tmp_path, "evaluation"), ("toy_copy", "toy_copy_too")
    evaluated = [(r["step"], r["task"]) for r in evaluations]
    assert evaluated == [(step, task) for step in (3, 6) for task in tasks]
    for task in tasks:
        of_task = [r for r in evaluations if r["task"] == task]
        best = max(of_task, key=lambda r: r["nlp"])
        kept = {"checkpoint": f"checkpoint_{best['step']}"}
        assert found[task]["nlp"] == {"value": best["nlp"], "step": best["step"]} | kept
        assert f"nlp {best['nlp']:.4g} at step {best['step']}" in told
        assert f"best of {task}: " in told
        assert "tokens" not in found[task]
        for peak in found[task].values():
            named = {"checkpoint": f"checkpoint_{peak['step']}"} if peak["step"] in there else {}
            assert peak == {"value": peak["value"], "step": peak["step"]} | named


@pytest.fixture
def cached(tmp_path):
    """Settings of a mixture that is read from a cache."""
    cached_tasks.forget()
    cached_tasks.write_mixture(tmp_path / "cache")
    yield cached_tasks.OF_MIXTURE | {"CACHE_DIR": str(tmp_path / "cache")}
    cached_tasks.forget()


def test_a_cached_run_resumes_bit_for_bit_from_a_few_numbers(cached, tmp_path, capsys):
    pretrain(tmp_path / "whole", **cached)
    assert "data: cache of 2 tasks, 1,330 cached examples per epoch" in capsys.readouterr().out
    pretrain(tmp_path / "parts", **cached, TRAIN_STEPS=2)
    position = (tmp_path / "parts" / "checkpoint_2").glob("data*")
    assert sum(file.stat().st_size for file in position) < 4000
    pretrain(tmp_path / "parts", **cached)
    done = f"done: step {STEPS} of TRAIN_STEPS={STEPS}, in {tmp_path / 'parts'}; raise TRAIN_STEPS"
    assert done in capsys.readouterr().err
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    evaluated = {r["task"] for r in records(tmp_path / "whole", "evaluation")}
    assert evaluated == {"cached_pairs", "cached_few"}
    # As another process would, which knows of no cache yet.
    cached_tasks.forget()
    rows = {k: v for k, v in cached.items() if k != "PACK"}
    evaluation = {"CHECKPOINT_PATH": str(tmp_path / "whole"), "Evaluation.decode": False}
    load([*FILES, "runs/eval.gin"], SMALL | rows | evaluation)
    assert set(evaluate()) == {"cached_pairs", "cached_few"}
    with pytest.raises(UserError, match="belongs to a run with USE_CACHED_TASKS=True"):
        pretrain(tmp_path / "parts", **(cached | {"USE_CACHED_TASKS": False}))
    with pytest.raises(UserError, match="batch size 4 instead of 8"):
        pretrain(tmp_path / "parts", **cached, BATCH_SIZE=8)


def test_a_run_can_be_on_a_remote_file_system(whole, tmp_path, capsys):
    """On TensorFlow's ram://: saved, resumed, evaluated, and gone on from."""
    folder = "ram://runs/whole"
    pretrain(folder, TRAIN_STEPS=3)
    capsys.readouterr()
    pretrain(folder)
    assert f"resumes from step 3 of {folder}: " in capsys.readouterr().out
    assert losses(folder) == losses(whole)
    assert records(folder, "evaluation") == records(whole, "evaluation")
    assert ModelDir(folder).steps() == [3, 6]
    for name in ("best.json", "run.json"):
        assert storage.read_text(f"{folder}/{name}") == (whole / name).read_text()
    assert any("tfevents" in name for name in storage.names(f"{folder}/tensorboard"))

    load([*FILES, "runs/eval.gin"], SMALL | {"CHECKPOINT_PATH": folder, "Evaluation.decode": False})
    found = evaluate()
    figures = f"{folder}/evaluations/toy_copy_validation_6.json"
    assert json.loads(storage.read_text(figures)) == found
    last = [r for r in records(whole, "evaluation") if r["step"] == STEPS]
    assert {r["task"]: r["nlp"] for r in last} == {task: found[task]["nlp"] for task in found}

    capsys.readouterr()
    pretrain("ram://runs/next", INITIAL_CHECKPOINT_PATH=folder, TRAIN_STEPS=1)
    assert f"initial checkpoint {folder}/checkpoint_6: " in capsys.readouterr().out
    pretrain(tmp_path, INITIAL_CHECKPOINT_PATH=str(whole), TRAIN_STEPS=1)
    assert losses("ram://runs/next") == losses(tmp_path)
    storage.remove_folder("ram://runs")


def test_a_host_that_is_not_the_chief_evaluates_without_a_word(
    whole, tmp_path, capsys, monkeypatch
):
    shutil.copytree(whole, tmp_path / "run")
    there = sorted(os.listdir(tmp_path / "run"))
    monkeypatch.setattr(runtime, "is_chief", lambda: False)
    load([*FILES, "runs/eval.gin"], SMALL | {"CHECKPOINT_PATH": str(tmp_path / "run")})
    assert evaluate()
    assert capsys.readouterr().out == ""
    assert sorted(os.listdir(tmp_path / "run")) == there


class Reads:
    """A feed of these files, or of the cache that a position tells."""

    def __init__(self, files=(), position=None):
        self.files = dict(files)
        self.tells_position = position is not None
        self.iterator = self
        self.serialize = lambda: position


def test_a_host_that_reads_other_data_than_the_chief_ends(tmp_path, monkeypatch):
    chiefs = {"/at_chief/a.tsv": [3, None]}
    said = {"the files of the data": json.dumps(chiefs), "the cache of the data": "{}"}
    monkeypatch.setattr(agreement, "from_chief", lambda name, own: said.get(name, own))
    told = "^this host reads other data than the chief: a.tsv has 4 bytes instead of 3: give all"
    with pytest.raises(UserError, match=told):
        train_module._check_same_data(Reads({"a.tsv": [4, None]}))
    train_module._check_same_data(Reads({"a.tsv": [3, "digest"]}))
    with pytest.raises(UserError, match="^this host reads another cache than the chief: give"):
        train_module._check_same_data(Reads(chiefs, position="{1}"))
    train_module._check_same_data(Reads(chiefs, position="{}"))
    with pytest.raises(UserError, match="than the chief: /at_chief/a.tsv is gone: give all hosts"):
        pretrain(tmp_path, TRAIN_STEPS=1)


def test_a_stopped_run_resumes_with_the_next_batch_bit_for_bit(
    whole, tmp_path, monkeypatch, capsys
):
    update, number = Progress.update, signal.SIGINT

    def stop_at_two(self, step, *args):
        update(self, step, *args)
        if step == 2:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch, pytest.raises(Interruption) as stop:
        patch.setattr(Progress, "update", stop_at_two)
        pretrain(tmp_path)
    assert ModelDir(str(tmp_path)).steps() == [2]
    assert stop.value.status == 128 + number
    assert str(stop.value) == (
        f"interrupted by {number.name}: saved step 2 in {tmp_path}; rerun the command to resume"
    )
    capsys.readouterr()
    pretrain(tmp_path)
    output = capsys.readouterr().out
    assert f"resumes from step 2 of {tmp_path}: " in output
    assert losses(tmp_path) == losses(whole)
    assert records(tmp_path, "evaluation") == records(whole, "evaluation")


@pytest.mark.parametrize(
    "kind, method, call, step",
    [(TrainStep, "__call__", 1, 1), (Feed, "next", 2, 2), (Checkpoints, "save", 1, 3)],
    ids=["while the step is compiled", "while a batch is waited for", "while a save is written"],
)
def test_a_signal_at_any_time_leaves_a_run_that_goes_on(
    whole, tmp_path, monkeypatch, kind, method, call, step
):
    inner, calls = getattr(kind, method), []

    def interrupted(self, *args):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Interruption) as stop:
        patch.setattr(kind, method, interrupted)
        pretrain(tmp_path)
    assert stop.value.status == 128 + signal.SIGTERM
    assert ModelDir(str(tmp_path)).steps()[-1] == step
    pretrain(tmp_path)
    assert losses(tmp_path) == losses(whole)
    assert records(tmp_path, "evaluation") == records(whole, "evaluation")


def test_a_signal_during_an_evaluation_stops_it_and_resumes_there(whole, tmp_path, monkeypatch):
    run = TeacherForcedEvaluator.run

    def stop(self, stopped):
        os.kill(os.getpid(), signal.SIGTERM)
        return run(self, stopped)

    with monkeypatch.context() as patch, pytest.raises(Interruption, match="saved step 3 in"):
        patch.setattr(TeacherForcedEvaluator, "run", stop)
        pretrain(tmp_path)
    assert ModelDir(str(tmp_path)).steps() == [3]
    assert records(tmp_path, "evaluation") == []
    pretrain(tmp_path)
    assert records(tmp_path, "evaluation") == records(whole, "evaluation")
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("in a metric"), InputHangs("data that do not come")]
)
def test_an_evaluation_that_fails_costs_no_step(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(TeacherForcedEvaluator, "run", fail)
        pretrain(tmp_path, CHECKPOINT_PERIOD=STEPS)
    assert ModelDir(str(tmp_path)).steps() == [3]
    assert list(losses(tmp_path)) == [1, 2, 3]


def test_the_saved_config_alone_runs_the_same_again(whole, tmp_path):
    load([str(whole / "config.gin")], {"MODEL_DIR": str(tmp_path), "TRAIN_STEPS": 1})
    train()
    assert losses(tmp_path)[1] == losses(whole)[1]


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint(tmp_path):
    pretrain(tmp_path, TRAIN_STEPS=1, CHECKPOINT_PERIOD=1)
    saved = (tmp_path / "checkpoint_1/state.index").read_bytes()
    with pytest.raises(UserError) as caught:
        pretrain(tmp_path, CHECKPOINT_PERIOD=STEPS, **{"schedules.rsqrt.scale": 1e30})
    assert ModelDir(str(tmp_path)).steps() == [1]
    assert (tmp_path / "checkpoint_1/state.index").read_bytes() == saved
    told = re.match(
        r"loss is (nan|inf) at step (\d+); first non-finite value: "
        r"model/(embedding|\w+/layer_0|\w+/norm); "
        r"largest router logit \S+ in model/\S+; its batch is kept in \S+/bad_steps/step_\d+.npz; "
        r"the last checkpoint in \S+ is untouched: "
        r"lower the learning rate\n",
        str(caught.value),
    )
    step = int(told[2])
    assert 1 < step < STEPS
    assert list(losses(tmp_path)) == list(range(1, step))


def test_a_collapsed_router_is_told_of_once_a_layer(tmp_path, capsys):
    pretrain(
        tmp_path,
        TRAIN_STEPS=4,
        **{"SwitchLayer.router": "@WorstCaseRouter", "LoadWatch.steps": 2},
    )
    told = capsys.readouterr().err
    warnings = re.findall(r"step \d  warning: (\S+): (the load|no token)", told)
    layers = [f"model/{s}/layer_0/feed_forward/switch_ffn" for s in ("encoder", "decoder")]
    assert sorted(warnings) == sorted((n, w) for n in layers for w in ("the load", "no token"))


def test_weights_that_a_run_could_not_go_on_from_are_not_saved(tmp_path, monkeypatch):
    pretrain(tmp_path, TRAIN_STEPS=1, CHECKPOINT_PERIOD=1)
    apply = Adafactor.apply

    def spoil(self, gradients, variables, step):
        updates = apply(self, gradients, variables, step)
        variables[0].value.assign(variables[0].value * math.nan)
        return updates

    monkeypatch.setattr(Adafactor, "apply", spoil)
    with pytest.raises(
        UserError, match=r"step \d+ produced weights whose loss is (nan|inf): they are"
    ):
        pretrain(tmp_path, CHECKPOINT_PERIOD=1)
    assert ModelDir(str(tmp_path)).steps() == [1]
    monkeypatch.undo()
    pretrain(tmp_path, TRAIN_STEPS=2)
    assert math.isfinite(losses(tmp_path)[2])


@pytest.mark.parametrize(
    "name, value",
    [("TRAIN_STEPS", "9"), ("EVAL_PERIOD", 0), ("CHECKPOINT_PERIOD", 0), ("BATCH_SIZE", 1.5)],
)
def test_counts_are_checked_before_anything_is_made(tmp_path, name, value):
    with pytest.raises(UserError, match=f"{name}={value!r}: give a whole number of at least 1"):
        pretrain(tmp_path / "run", **{name: value})
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finetuned(whole, tmp_path_factory):
    """A fine-tuning of `whole` with decoded metrics, which takes its model from there."""
    folder = tmp_path_factory.mktemp("finetuned")
    settings = {"MODEL_DIR": str(folder), "INITIAL_CHECKPOINT_PATH": str(whole)}
    of_task = ("MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE", "TASK_FEATURE_LENGTHS")
    settings |= {name: SMALL[name] for name in (*of_task, "BATCH_SIZE", "MESH_SHAPE")}
    settings |= {"TRAIN_STEPS": 2, "EVAL_PERIOD": 2} | MIXTURE
    flags = [f"--gin.{name}={value!r}" for name, value in settings.items()]
    main_module.main(["train", f"--gin_file={FILES[1]}", "--gin_file=runs/finetune.gin", *flags])
    return folder


def test_fine_tuning_starts_from_the_weights_and_at_a_constant_rate(finetuned, whole):
    first, second = records(finetuned, "train")
    assert first["learning_rate"] == second["learning_rate"] == pytest.approx(1e-3)
    (before,) = [r["nlp"] for r in records(whole, "evaluation") if r["step"] == STEPS]
    assert first["nlp"] == pytest.approx(before, abs=0.7)
    assert first["nlp"] > losses(whole)[1] * -1 + 0.3


def test_decoded_metrics_are_logged_for_each_task(finetuned):
    last = records(finetuned, "evaluation")
    assert [r["task"] for r in last] == ["toy_copy", "toy_copy_too"]
    assert all(0.0 <= r["accuracy"] <= 100.0 and "nlp_dropless" in r for r in last)


def test_the_answers_that_they_are_of_are_written_beside_the_log(finetuned):
    for task in ("toy_copy", "toy_copy_too"):
        lines = (finetuned / f"predictions/validation_2/{task}.jsonl").read_text().splitlines()
        assert len(lines) == toy_task.NUM_VALIDATION
        assert json.loads(lines[1])["targets"] == "bb"


def test_a_run_keeps_its_best_and_stops_early_where_it_stays_the_best(tmp_path, monkeypatch):
    """Also after it was killed, and asked for more patience it goes on."""
    of_steps = {1: -3.0, 2: -1.0, 3: -2.0, 4: -1.5, 5: -1.4}

    def evaluated(self, step, *args):
        found = {"nlp": of_steps[step], "tokens": 1.0}
        return dict.fromkeys(self.teacher_forced.datasets, found)

    def run(name, patience):
        """The steps whose checkpoints there are, and those that were logged."""
        settings = {"EVAL_PERIOD": 1, "CHECKPOINT_PERIOD": STEPS, "train.keep_checkpoints": 1}
        pretrain(tmp_path / name, **settings, **{"Evaluation.early_stopping": patience})
        return ModelDir(str(tmp_path / name)).steps(), list(losses(tmp_path / name))

    def killed(self, step, *args):
        if step == 4:
            raise KeyboardInterrupt()
        return update(self, step, *args)

    update = Progress.update
    monkeypatch.setattr(Evaluators, "run", evaluated)
    assert run("whole", 2) == ([2, 4], [1, 2, 3, 4])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "update", killed)
        run("parts", 2)
    assert ModelDir(str(tmp_path / "parts")).steps() == [2]
    for _ in range(2):
        assert run("parts", 2) == ([2, 4], [1, 2, 3, 4])
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert run("parts", 3) == ([2, 5], [1, 2, 3, 4, 5])
    best = json.loads((tmp_path / "parts/best.json").read_text())
    assert best["toy_copy"]["nlp"] == {"value": -1.0, "step": 2, "checkpoint": "checkpoint_2"}


def test_a_checkpoint_that_is_named_as_the_best_is_there_at_any_time(tmp_path, monkeypatch):
    """Each evaluation is better than the one before, whose checkpoint goes."""

    def evaluated(self, step, *args):
        return dict.fromkeys(self.teacher_forced.datasets, {"nlp": float(step), "tokens": 1.0})

    def checked(self, step):
        named.append(names())
        save(self, step)
        named.append(names())

    def names():
        path = tmp_path / "best.json"
        found = re.findall("checkpoint_[0-9]+", path.read_text()) if path.exists() else []
        assert all((tmp_path / name).is_dir() for name in found)
        return set(found)

    named, save = [], Checkpoints.save
    monkeypatch.setattr(Evaluators, "run", evaluated)
    monkeypatch.setattr(Checkpoints, "save", checked)
    settings = {"TRAIN_STEPS": 3, "EVAL_PERIOD": 1, "CHECKPOINT_PERIOD": STEPS}
    settings["train.keep_checkpoints"] = 1
    pretrain(tmp_path, **settings)
    assert named[:4] == [set(), set(), {"checkpoint_1"}, {"checkpoint_1"}]
    assert names() == {"checkpoint_3"} and ModelDir(str(tmp_path)).steps() == [3]
    # Killed before it was written.
    (tmp_path / "best.json").unlink()
    pretrain(tmp_path, **settings)
    assert names() == {"checkpoint_3"}


def test_a_run_that_had_ended_without_them_decodes_when_asked(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    before = records(whole, "evaluation")
    decode = {"Evaluation.decode": True, "Evaluation.decode_examples": 2}
    pretrain(tmp_path / "run", **decode)
    added = records(tmp_path / "run", "evaluation")[len(before) :]
    assert [(r["step"], r["task"]) for r in added] == [(STEPS, "toy_copy")]
    assert all("accuracy" in record for record in added)
    pretrain(tmp_path / "run", **decode)
    assert records(tmp_path / "run", "evaluation") == before + added


def test_fine_tuning_drops_more_inside_the_experts(finetuned):
    settings = config.precheck([str(finetuned / "config.gin")])
    assert (settings["DROPOUT_RATE"], settings["EXPERT_DROPOUT_RATE"]) == (0.1, 0.4)


def test_eval_gives_the_figures_of_the_run_whose_model_and_task_it_takes(whole, tmp_path, capsys):
    output = tmp_path / "figures.json"
    settings = {"CHECKPOINT_PATH": str(whole), "evaluate.output_path": str(output)}
    settings |= {"Evaluation.decode": False, "Evaluation.dropless": False}
    settings["MESH_SHAPE"] = SMALL["MESH_SHAPE"]
    flags = [f"--gin.{name}={value!r}" for name, value in settings.items()]
    main_module.main(["eval", f"--gin_file={FILES[1]}", "--gin_file=runs/eval.gin", *flags])
    found = json.loads(output.read_text())
    assert set(found) == {"toy_copy"}
    for record in records(whole, "evaluation"):
        if record["step"] == STEPS:
            figures = {name: record[name] for name in found[record["task"]]}
            assert figures == found[record["task"]]
    told = capsys.readouterr().out
    assert f"task, lengths and batch size taken from {whole}/config.gin\n" in told
    assert "toy_copy  nlp -" in told


def test_a_model_of_another_vocabulary_is_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    facts = json.loads((whole / "run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(facts | {"vocabulary": "of other pieces"}))
    line = (
        r"='{}' holds a model with a vocabulary other than .*: set VOCABULARY_PATH to the one that"
    )
    with pytest.raises(UserError, match="MODEL_DIR" + line.format(tmp_path / "run")):
        pretrain(tmp_path / "run")
    with pytest.raises(UserError, match="INITIAL_CHECKPOINT_PATH" + line.format(tmp_path / "run")):
        pretrain(tmp_path / "new", **{"train.initial_checkpoint_path": str(tmp_path / "run")})
    load([*FILES, "runs/eval.gin"], SMALL | {"CHECKPOINT_PATH": str(tmp_path / "run")})
    with pytest.raises(
        UserError, match="CHECKPOINT_PATH='.*' holds a model with a vocabulary other than"
    ):
        evaluate()


def test_a_model_dir_of_another_model_is_refused_in_one_line(whole):
    with pytest.raises(
        UserError, match=r"checkpoint '.*': .* has shape .*, but the model's is .*: "
    ):
        pretrain(whole, **{"TransformerEncoderDecoder.d_ff": 48})
    assert ModelDir(str(whole)).steps() == [3, 6]
