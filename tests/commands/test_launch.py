"""Each kind of bad input of a run: one line that names the culprit and the mend, status 2."""

import gin
import pytest
import tensorflow as tf

from switch_tf import accelerators, config, runtime, storage
from switch_tf.commands import launch
from switch_tf.commands import main as main_module
from switch_tf.hosts.cluster import FLAGS
from tests.commands.without_tensorflow import run_without_tensorflow

MODEL = "--gin_file=models/switch_tiny.gin"
LAYOUT = "--gin_file=layouts/expert_data.gin"
PRETRAIN = "--gin_file=runs/pretrain.gin"
FINETUNE = "--gin_file=runs/finetune.gin"
DIR = "--gin.MODEL_DIR='/tmp/none'"
# What an evaluation needs of a checkpoint without a config.gin.
OF_A_TASK = (
    "--gin.MIXTURE_OR_TASK_NAME='pydocs_rte'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}",
    "--gin.BATCH_SIZE=64",
)
BEFORE_TENSORFLOW = {
    "no gin file": ([DIR], "--gin_file is missing; see switch-tf train --help"),
    "no gin file of a run": (
        [MODEL],
        "no --gin_file sets TaskData.batch_size: add --gin_file=runs/pretrain.gin, or another of "
        "gin/runs",
    ),
    "no gin file of a model": (
        [PRETRAIN, DIR],
        "no --gin_file sets TransformerEncoderDecoder.d_model: add "
        "--gin_file=models/switch_tiny.gin, or another of gin/models",
    ),
    "a gin file that is not there": (
        ["--gin_file=models/swich_tiny.gin"],
        "--gin_file: no file 'models/swich_tiny.gin'; searched in ",
    ),
    "a gin file of a remote run": (
        ["--gin_file=gs://bucket/run/config.gin", PRETRAIN],
        "--gin_file: 'gs://bucket/run/config.gin' is remote, but gin files have to be local: copy ",
    ),
    "an unknown gin name": (
        [MODEL, PRETRAIN, DIR, "--gin.SwitchRouter.capacty_factor=2.0"],
        "--gin.SwitchRouter.capacty_factor: 'SwitchRouter' has no parameter 'capacty_factor'; "
        "nearest: capacity_factor",
    ),
    "an unknown macro": (
        [MODEL, PRETRAIN, DIR, "--gin.TRAIN_STEP=3"],
        "--gin.TRAIN_STEP: nothing loaded reads the macro 'TRAIN_STEP'; nearest: TRAIN_STEPS",
    ),
    "a missing macro": (
        [MODEL, PRETRAIN],
        "MODEL_DIR is required: pass --gin.MODEL_DIR=\"'VALUE'\"",
    ),
    "a batch that the mesh does not divide": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.BATCH_SIZE=12"],
        "BATCH_SIZE=12 is not divisible by the 8 devices of mesh dimension 'batch': change "
        "BATCH_SIZE, MESH_SHAPE or LAYOUT_RULES",
    ),
    "experts that the mesh does not divide": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.NUM_EXPERTS=6"],
        "NUM_EXPERTS=6 is not divisible by the 8 devices of mesh dimension 'batch': change "
        "NUM_EXPERTS, MESH_SHAPE or LAYOUT_RULES",
    ),
    "a batch asked for by the run's parameter": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.TaskData.batch_size=12"],
        "TaskData.batch_size=12 is not divisible by the 8 devices of mesh dimension 'batch'",
    ),
    "a batch of evaluations": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.Evaluation.batch_size=12"],
        "Evaluation.batch_size=12 is not divisible by the 8 devices of mesh dimension 'batch'",
    ),
    "experts asked for by the layer's parameter": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.SwitchFFN.num_experts=6"],
        "SwitchFFN.num_experts=6 is not divisible by the 8 devices of mesh dimension 'batch'",
    ),
    "heads that the mesh does not divide": (
        [MODEL, "--gin_file=layouts/model.gin", PRETRAIN, DIR, "--gin.MESH_SHAPE='model:8'"],
        "TransformerEncoderDecoder.num_heads=4 is not divisible by the 8 devices of mesh "
        "dimension 'model': change TransformerEncoderDecoder.num_heads, MESH_SHAPE or LAYOUT_RULES",
    ),
    "a vocabulary that the mesh does not divide": (
        [MODEL, "--gin_file=layouts/model.gin", PRETRAIN, DIR, "--gin.VOCAB_SIZE=2110"],
        "VOCAB_SIZE=2110 is not divisible by the 4 devices of mesh dimension 'model'",
    ),
    "a vocabulary that is not there": (
        [MODEL, PRETRAIN, DIR, "--gin.VOCABULARY_PATH='no.model'"],
        "VOCABULARY_PATH='no.model': no such file; set VOCABULARY_PATH to a copy of T5's, such as "
        "spiece.model of huggingface.co/google-t5/t5-base, to vocabulary.model in the MODEL_DIR of "
        "a run, or to your own, trained on the text of a task with switch-tf tasks NAME "
        "--train_vocabulary=8000 and the --gin flags of the run",
    ),
    "a vocabulary that is no path": (
        [MODEL, PRETRAIN, DIR, "--gin.VOCABULARY_PATH=5"],
        "VOCABULARY_PATH=5: give a path in quotes",
    ),
    "a mesh asked for by the run's parameter": (
        [MODEL, PRETRAIN, DIR, "--gin.ModelSetup.mesh_shape='batch:6'"],
        "BATCH_SIZE=64 is not divisible by the 6 devices of mesh dimension 'batch'",
    ),
    "another dtype": (
        [MODEL, PRETRAIN, DIR, "--gin.DTYPE='float16'"],
        "DTYPE='float16': give 'float32' or 'bfloat16'; T5's activations overflow float16",
    ),
    "another kind of device": (
        [MODEL, PRETRAIN, DIR, "--gin.DEVICE_TYPE='gpu'"],
        "DEVICE_TYPE='gpu': give 'CPU', 'GPU' or 'TPU'",
    ),
    "a profile of no range": (
        [MODEL, PRETRAIN, DIR, "--profile_steps=10"],
        "--profile_steps=10: give the first and the last step, such as --profile_steps=10-20",
    ),
    "a profile beyond the run": (
        [MODEL, PRETRAIN, DIR, "--gin.TRAIN_STEPS=15", "--profile_steps=10-20"],
        "--profile_steps=10-20 goes beyond TRAIN_STEPS=15: give steps that the run makes",
    ),
    "no experts": (
        [MODEL, PRETRAIN, DIR, "--gin.NUM_EXPERTS=0"],
        "NUM_EXPERTS=0: give a whole number of at least 1",
    ),
    "a seed that is no number": (
        [MODEL, PRETRAIN, DIR, "--gin.SEED='a'"],
        "SEED='a': give a whole number",
    ),
    "a seed beyond what noise is drawn from": (
        [MODEL, PRETRAIN, DIR, "--gin.SEED=2147483648"],
        "SEED=2147483648: give a whole number from 0 to 2^31 - 1",
    ),
    "a dropout rate that cannot be": (
        [MODEL, PRETRAIN, DIR, "--gin.DROPOUT_RATE=1.0"],
        "DROPOUT_RATE=1.0: give a number of at least 0 and less than 1",
    ),
    "a dropout rate of experts that a dense model lacks": (
        ["--gin_file=models/t5_tiny.gin", FINETUNE, DIR, "--gin.EXPERT_DROPOUT_RATE=0.2"],
        "--gin.EXPERT_DROPOUT_RATE: nothing loaded reads the macro 'EXPERT_DROPOUT_RATE'; models/",
    ),
    "a switch that is no switch": (
        [MODEL, PRETRAIN, DIR, "--gin.PACK='yes'"],
        "PACK='yes': give True or False",
    ),
    "files that differ in a setting": (
        [MODEL, "--gin_file=models/switch_mini.gin", PRETRAIN, DIR],
        "models/t5_mini.gin:12: TransformerEncoderDecoder.d_ff=512, but ",
    ),
    "the same in another order": (
        [PRETRAIN, DIR, "--gin_file=models/switch_mini.gin", MODEL],
        "models/t5_tiny.gin:12 has 256, so the order of the --gin_file flags would decide: pass "
        "--gin.TransformerEncoderDecoder.d_ff=VALUE, or let one file include the other",
    ),
    "a file that another one includes": (
        [MODEL, "--gin_file=tables/quickstart_long.gin", PRETRAIN, DIR],
        "--gin.BATCH_SIZE=VALUE, or remove --gin_file=runs/pretrain.gin, which "
        "tables/quickstart_long.gin includes",
    ),
    "a mesh that cannot be read": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.MESH_SHAPE='batch=8'"],
        "MESH_SHAPE='batch=8': 'batch=8' is not of the form name:value",
    ),
    "a layout over a dimension that the mesh lacks": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.LAYOUT_RULES='d_ff:model'"],
        "LAYOUT_RULES='d_ff:model': the mesh has no dimension 'model'; it has batch: name it so "
        "in MESH_SHAPE, or set LAYOUT_RULES, too",
    ),
    "a mesh larger than the machine": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.MESH_SHAPE='batch:8192'"]
        + ["--gin.BATCH_SIZE=8192", "--gin.NUM_EXPERTS=8192"],
        "MESH_SHAPE has 8192 devices, too many CPU devices for ",
    ),
    "shares that do not divide": (
        [MODEL, PRETRAIN, DIR, "--gin.TaskData.shares=7"],
        "BATCH_SIZE=64 is not divisible by TaskData.shares=7: give each share as many rows",
    ),
    "shares of a cache": (
        [MODEL, PRETRAIN, DIR, "--gin.TaskData.shares=2", "--gin.USE_CACHED_TASKS=True"],
        "TaskData.shares=2 is of tasks that are not cached",
    ),
    "micro-batches that do not divide": (
        [MODEL, PRETRAIN, DIR, "--gin.TrainStep.microbatches=7"],
        "BATCH_SIZE=64 cannot be divided into 7 micro-batches of whole examples on 1 device: "
        "change BATCH_SIZE or TrainStep.microbatches",
    ),
    "a mesh without a layout": (
        [MODEL, PRETRAIN, DIR, "--gin.MESH_SHAPE='batch:8'"],
        "nothing loaded reads the macro 'MESH_SHAPE'; layouts/data.gin, layouts/expert_data.gin "
        "and 3 more files read it: add one by --gin_file",
    ),
    "a mesh dimension that shards nothing": (
        [MODEL, LAYOUT, PRETRAIN, DIR, "--gin.MESH_SHAPE='batch:4,model:2'"],
        "MESH_SHAPE: nothing is sharded over 'model', so its 2 devices would all do the same work: "
        "leave it out, or add a rule such as d_ff:model to LAYOUT_RULES",
    ),
    "a length that the mesh does not divide": (
        [MODEL, PRETRAIN, DIR, "--gin.ModelSetup.mesh_shape='batch:1,seq:3'"]
        + ["--gin.ModelSetup.layout_rules='batch:batch,length:seq'"],
        "TASK_FEATURE_LENGTHS['inputs']=128 is not divisible by the 3 devices",
    ),
    "an optimizer without a schedule": (
        [MODEL, PRETRAIN, DIR, "--gin.ModelSetup.optimizer=@AdamW"],
        "--gin.ModelSetup.optimizer: @AdamW needs AdamW.learning_rate: pass "
        "--gin.AdamW.learning_rate=VALUE, a schedule: @schedules.constant(), ",
    ),
    "a setting under the name of an older version": (
        [MODEL, PRETRAIN, DIR, "--gin.train.batch_size=8"],
        "'train' has no parameter 'batch_size'; there is TaskData.batch_size and "
        "Evaluation.batch_size",
    ),
    "a parameter without its class": (
        [MODEL, PRETRAIN, DIR, "--gin.d_model=8"],
        "nothing loaded reads the macro 'd_model'; there is TransformerEncoderDecoder.d_model",
    ),
    "a path without a value": ([MODEL, PRETRAIN], "pass --gin.MODEL_DIR=\"'VALUE'\""),
    "a module by its last name": (
        [MODEL, PRETRAIN, DIR, "--gin.MIXTURE_OR_TASK_MODULE='c4'"],
        "no module 'c4'; did you mean switch_tf.tasks.c4?",
    ),
    "an initial checkpoint that is not there": (
        [MODEL, FINETUNE, DIR, "--gin.INITIAL_CHECKPOINT_PATH='/no/such'"],
        "INITIAL_CHECKPOINT_PATH='/no/such': no such folder; give a MODEL_DIR that holds "
        "checkpoints, or a checkpoint_<step> folder",
    ),
    "the same, set as the parameter": (
        [MODEL, PRETRAIN, DIR, "--gin.train.initial_checkpoint_path='/no/such'"],
        "train.initial_checkpoint_path='/no/such': no such folder; give a MODEL_DIR that holds ",
    ),
    "a file in place of the run's folder": (
        [MODEL, PRETRAIN, f"--gin.MODEL_DIR='{__file__}'"],
        f"MODEL_DIR='{__file__}' is a file: give a folder",
    ),
    "a folder of data that is not there": (
        [MODEL, PRETRAIN, DIR, "--gin.DATA_DIR='/no/such'"],
        "DATA_DIR='/no/such': no such folder; give the folder that holds the datasets",
    ),
}


@pytest.mark.parametrize("case", BEFORE_TENSORFLOW)
def test_bad_input_is_told_in_one_line_before_tensorflow_starts(case):
    arguments, message = BEFORE_TENSORFLOW[case]
    done = run_without_tensorflow("train", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("switch-tf: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command, arguments, name",
    [
        ("train", [FINETUNE, DIR], "INITIAL_CHECKPOINT_PATH"),
        ("eval", ["--gin_file=runs/eval.gin"], "CHECKPOINT_PATH"),
    ],
)
def test_a_checkpoint_that_is_left_out_is_named_before_the_model_that_it_gives(
    command, arguments, name
):
    done = run_without_tensorflow(command, *arguments)
    assert done.returncode == 2
    assert f": {name} is required: pass --gin.{name}=\"'VALUE'\"\n" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_may_give_the_checkpoint_that_one_after_it_requires(tmp_path):
    (tmp_path / "mine.gin").write_text("CHECKPOINT_PATH = '/no/such'\n")
    files = [f"--gin_file={tmp_path}/mine.gin", "--gin_file=runs/eval.gin"]
    done = run_without_tensorflow("eval", *files)
    assert "CHECKPOINT_PATH is required" not in done.stderr and done.returncode == 2


@pytest.mark.parametrize("setting", ["INITIAL_CHECKPOINT_PATH", "CHECKPOINT_PATH"])
def test_a_folder_without_a_checkpoint_is_told_before_what_it_would_give(setting, tmp_path):
    evaluates = "--gin_file=runs/eval.gin"
    command, own = ("train", [FINETUNE, DIR]) if setting[0] == "I" else ("eval", [evaluates])
    done = run_without_tensorflow(command, *own, f"--gin.{setting}='{tmp_path}'")
    assert done.returncode == 2
    assert done.stderr == (
        f"switch-tf: error: {setting}='{tmp_path}': no checkpoint there: give a MODEL_DIR that "
        "holds checkpoints, or a checkpoint_<step> folder\n"
    )


def test_a_folder_of_runs_names_them(tmp_path):
    for run in ("b", "a", "c", "d"):
        (tmp_path / run / "checkpoint_7").mkdir(parents=True)
    (tmp_path / "e").mkdir()
    evaluates = "--gin_file=runs/eval.gin"
    done = run_without_tensorflow("eval", evaluates, f"--gin.CHECKPOINT_PATH='{tmp_path}'")
    assert done.returncode == 2
    assert "no checkpoint there, but in a, b, c and 1 more in it: give" in done.stderr


def test_an_evaluation_of_a_model_dir_says_how_it_is_called_there(tmp_path):
    done = run_without_tensorflow("eval", "--gin_file=runs/eval.gin", "--gin.MODEL_DIR='runs/a'")
    assert (done.returncode, done.stderr) == (
        2,
        "switch-tf: error: --gin.MODEL_DIR: MODEL_DIR is where switch-tf train writes: pass the "
        "run to evaluate as --gin.CHECKPOINT_PATH=\"'runs/a'\"\n",
    )


@pytest.mark.parametrize(
    "more, mend",
    {
        (): "add --gin_file=layouts/expert_data.gin, or another of gin/layouts",
        ("--gin_file=layouts/data.gin", "--gin.MESH_SHAPE='batch:3'"): "MESH_SHAPE='batch:3' has 3 "
        "devices: make it a multiple of them",
    }.items(),
)
def test_a_mesh_that_hosts_cannot_share_is_told_before_they_meet(more, mend):
    hosts = ["--hosts=a:1,b:2", "--host=0"]
    done = run_without_tensorflow("train", MODEL, PRETRAIN, DIR, *hosts, *more)
    assert (done.returncode, done.stderr) == (
        2,
        f"switch-tf: error: 2 hosts cannot share the devices of the mesh: {mend}\n",
    )


def test_a_period_of_kept_checkpoints_is_one_at_which_they_are_made():
    flags = [MODEL, PRETRAIN, DIR, "--gin.CHECKPOINT_PERIOD=30", "--gin.train.keep_period=40"]
    done = run_without_tensorflow("train", *flags)
    assert done.returncode == 2
    assert done.stderr == (
        "switch-tf: error: train.keep_period=40 is no multiple of CHECKPOINT_PERIOD=30: "
        "checkpoints are made at multiples of the latter\n"
    )


def test_a_mesh_beyond_the_machine_is_told_before_what_it_does_not_divide():
    layout = "--gin_file=layouts/expert_data.gin"
    flags = [MODEL, layout, PRETRAIN, DIR, "--gin.MESH_SHAPE='batch:4096'"]
    done = run_without_tensorflow("train", *flags)
    assert done.returncode == 2
    assert "MESH_SHAPE has 4096 devices, too many CPU devices for" in done.stderr


def test_files_of_another_command_are_told():
    done = run_without_tensorflow("eval", MODEL, PRETRAIN)
    assert done.returncode == 2
    assert done.stderr == (
        "switch-tf: error: no --gin_file sets evaluate.checkpoint_path: add "
        "--gin_file=runs/eval.gin, or another of gin/runs; those given are for switch-tf train\n"
    )


def test_a_file_of_an_evaluation_beside_those_of_a_training_is_told():
    done = run_without_tensorflow("train", MODEL, PRETRAIN, "--gin_file=runs/eval.gin", DIR)
    assert done.returncode == 2
    assert done.stderr == (
        "switch-tf: error: --gin_file=runs/eval.gin is for switch-tf eval: leave it out\n"
    )


def test_a_module_that_is_named_as_a_file_is_told_its_name():
    flags = [MODEL, PRETRAIN, DIR, "--gin.MIXTURE_OR_TASK_MODULE='my/tasks.py'"]
    done = run_without_tensorflow("train", *flags)
    assert done.returncode == 2
    assert done.stderr.endswith(": 'my/tasks.py' is a file: name the module, such as 'my.tasks'\n")


def test_a_model_dir_that_cannot_be_made_is_told_before_tensorflow_starts(tmp_path):
    # The files of this file system can be written by nobody.
    done = run_without_tensorflow("train", MODEL, PRETRAIN, "--gin.MODEL_DIR='/proc/self/runs/a'")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "switch-tf: error: MODEL_DIR='/proc/self/runs/a' cannot be written to: /proc/self: "
    )
    new = tmp_path / "not" / "there"
    flags = [MODEL, PRETRAIN, f"--gin.MODEL_DIR='{new}'", "--gin.EVAL_PERIOD=0"]
    assert "EVAL_PERIOD" in run_without_tensorflow("train", *flags).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["MODEL_DIR", "INITIAL_CHECKPOINT_PATH"])
def test_a_checkpoint_of_another_shape_is_told_before_tensorflow_starts(setting, tmp_path):
    saved = "TransformerEncoderDecoder.d_model = 32\nSwitchFFN.num_experts = %NUM_EXPERTS\n"
    (tmp_path / "config.gin").write_text(saved + "NUM_EXPERTS = 8\n")
    (tmp_path / "checkpoint_7").mkdir()
    (tmp_path / "checkpoint_7" / "state.index").touch()
    place = tmp_path if setting == "MODEL_DIR" else tmp_path / "checkpoint_7"
    # A fine-tuning takes the size of its checkpoint, unless a flag says otherwise.
    size = "--gin.TransformerEncoderDecoder.d_model=64"
    others = [PRETRAIN] if setting == "MODEL_DIR" else [FINETUNE, DIR, size]
    done = run_without_tensorflow("train", MODEL, *others, f"--gin.{setting}='{place}'")
    assert done.returncode == 2
    assert done.stderr == (
        f"switch-tf: error: {setting}='{place}' holds a model with "
        "TransformerEncoderDecoder.d_model=32, but this run has 64: set it to 32, or give another "
        f"{setting}\n"
    )


@pytest.mark.parametrize(
    "setting, line",
    [
        ("--gin.BATCH_SIZE=32", "BATCH_SIZE=64, but this run has 32"),
        ("--gin.SEED=1", "SEED=0, but this run has 1"),
        (
            "--gin.MIXTURE_OR_TASK_NAME='pydocs_finetune'",
            "MIXTURE_OR_TASK_NAME='pydocs_span_corruption', but this run has 'pydocs_finetune'",
        ),
        ("--gin.NUM_EXPERTS=8", "NUM_EXPERTS=4, but this run has 8"),
        ("--gin.TaskData.batch_size=32", "TaskData.batch_size=64, but this run has 32"),
    ],
)
def test_a_run_is_not_resumed_with_other_batches(setting, line, tmp_path):
    (tmp_path / "config.gin").write_text(
        "TaskData.batch_size = 64\nTaskData.seed = 0\n"
        "TaskData.mixture_or_task_name = 'pydocs_span_corruption'\n"
        + "SwitchFFN.num_experts = 4\n"
        * ("NUM_EXPERTS" in setting)
    )
    done = run_without_tensorflow(
        "train", MODEL, PRETRAIN, f"--gin.MODEL_DIR='{tmp_path}'", setting
    )
    assert done.returncode == 2
    what = "a model" if "NUM_EXPERTS" in line else "a run"
    assert f"MODEL_DIR='{tmp_path}' holds {what} with {line}: set it to " in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def told(capsys):
    """Runs `switch-tf train` in this process; returns the line on stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main_module.main(["train", MODEL, PRETRAIN, *arguments])
        assert stop.value.code == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(errors) == 1
        return errors[0].removeprefix("switch-tf: error: ")

    yield run
    gin.clear_config()


def test_a_device_that_the_machine_lacks_is_told(told, monkeypatch):
    """What the macro says is what TensorFlow is started with."""
    monkeypatch.setattr(runtime, "_started_devices", None)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    line = told(DIR, "--gin.DEVICE_TYPE='TPU'")
    assert line.startswith("DEVICE_TYPE='TPU': no TPU device on this machine; ")


@pytest.mark.parametrize("argv", [["eval"], ["plan", "--memory"], ["bench", "layer"]])
def test_commands_start_with_the_device_type_of_the_macro(argv, monkeypatch, tmp_path):
    class Started(BaseException):
        """Instead of a start."""

    def start(num_devices, device_type, shows_lowered):
        raise Started(num_devices, device_type)

    monkeypatch.setattr(runtime, "start", start)
    (tmp_path / "checkpoint_7").mkdir()
    run = ["--gin_file=runs/plan.gin"]
    if argv == ["eval"]:
        run = ["--gin_file=runs/eval.gin", f"--gin.CHECKPOINT_PATH='{tmp_path}'", *OF_A_TASK]
    with pytest.raises(Started) as started:
        main_module.main([*argv, MODEL, LAYOUT, *run, "--gin.DEVICE_TYPE='GPU'"])
    assert started.value.args == (8, "GPU")


def test_the_device_type_is_in_the_operative_config(monkeypatch):
    """Which by itself runs the same again."""
    monkeypatch.setattr(runtime, "start", lambda *arguments, **keywords: None)
    argv = [MODEL, "--gin_file=runs/plan.gin", "--gin.DEVICE_TYPE='GPU'"]
    launch.check("plan", "", argv).start()
    assert "DEVICE_TYPE = 'GPU'" in config.operative_config()
    gin.clear_config()


def test_a_remote_run_is_compared_once_tensorflow_is_there(told, tmp_path):
    folder = f"file://{tmp_path}/run"
    storage.make_folder(folder)
    storage.write_atomically(f"{folder}/config.gin", "# Of a run.\n\nTaskData.batch_size = 48\n")
    line = told(f"--gin.MODEL_DIR='{folder}'")
    assert line.startswith(f"MODEL_DIR='{folder}' holds a run with BATCH_SIZE=48, but ")


def test_a_run_of_which_nothing_would_be_left_is_refused(told):
    assert told("--gin.MODEL_DIR='ram://launched/run'") == (
        "MODEL_DIR='ram://launched/run' is gone when the command ends: give a folder on a disk"
    )


LOCAL = (
    "--gin.MIXTURE_OR_TASK_NAME='local_text_span_corruption'",
    "--gin.MIXTURE_OR_TASK_MODULE='switch_tf.tasks.local_text'",
)


def test_an_unknown_task_names_the_nearest(told, tmp_path):
    line = told(
        f"--gin.MODEL_DIR='{tmp_path}'",
        "--gin.MIXTURE_OR_TASK_NAME='toy_copi'",
        "--gin.MIXTURE_OR_TASK_MODULE='tests.toy_task'",
    )
    assert line.startswith("no task or mixture 'toy_copi' is registered; nearest: toy_copy")


def test_a_corrupt_line_of_json_is_named_by_file_and_line(told, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "A text."}\n{"text": \n')
    line = told(
        f"--gin.MODEL_DIR='{tmp_path}'",
        *LOCAL,
        f"--gin.local_text.train='{tmp_path}/a.jsonl'",
        f"--gin.VOCABULARY_PATH='{tmp_path}/a.jsonl'",
    )
    assert line.startswith(f"{tmp_path}/a.jsonl:2: not JSON: ")


def test_a_vocabulary_larger_than_the_models_is_refused(told, tmp_path):
    line = told(
        f"--gin.MODEL_DIR='{tmp_path}'",
        "--gin.VOCAB_SIZE=128",
        "--gin.MIXTURE_OR_TASK_NAME='toy_copy'",
        "--gin.MIXTURE_OR_TASK_MODULE='tests.toy_task'",
    )
    assert "has 359 tokens, but the model's VOCAB_SIZE is 128: set it to" in line


def test_on_tpu_a_command_takes_all_devices_and_bfloat16_and_says_so(monkeypatch):
    monkeypatch.setattr(accelerators, "tpu", lambda: accelerators.Tpu("v5e", 4, 4, False))
    tpu = "--gin.DEVICE_TYPE='TPU'"
    given = launch.check("train", "", [MODEL, LAYOUT, PRETRAIN, DIR, tpu], flags=FLAGS)
    assert given.devices == 4
    assert given.given["ModelSetup.mesh_shape"] == "batch:4"
    assert given.given["TransformerEncoderDecoder.dtype"] == "bfloat16"
    assert given.lines == [
        "DEVICE_TYPE='TPU': MESH_SHAPE = 'batch:4'",
        "DEVICE_TYPE='TPU': DTYPE = 'bfloat16'",
    ]


@pytest.mark.parametrize("devices, told", [(None, True), (1, False)])
def test_a_tpu_that_a_run_does_not_use_is_told(monkeypatch, capsys, devices, told):
    """But not by a plan, which needs no devices."""
    monkeypatch.setattr(accelerators, "tpu", lambda: accelerators.Tpu("v5e", 4, 4, False))
    monkeypatch.setattr(runtime, "start", lambda *arguments, **keywords: None)
    launch.check("plan", "", [MODEL, "--gin_file=runs/plan.gin"]).start(devices)
    gin.clear_config()
    assert ("does not use the 4 TPU v5e chips of this machine" in capsys.readouterr().out) is told


def test_a_mesh_of_other_devices_than_a_tpu_has_is_refused_before_tensorflow(monkeypatch, told):
    monkeypatch.setattr(accelerators, "tpu", lambda: accelerators.Tpu("v5e", 4, 4, False))
    assert told(LAYOUT, DIR, "--gin.DEVICE_TYPE='TPU'", "--gin.MESH_SHAPE='batch:8'") == (
        "MESH_SHAPE has 8 devices, but there are 4 TPU devices, and a mesh on TPU has all of them: "
        "give sizes whose product is 4"
    )
