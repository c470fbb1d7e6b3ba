"""The files of gin/: what their heads say, and that every model goes with every layout and run."""

import functools
import importlib
import itertools
import re
import shlex

import pytest

from switch_tf import config, configurables, gin_files
from switch_tf.commands import checks
from switch_tf.errors import UserError
from tests.helpers import with_run

FOLDER = gin_files.GIN_FOLDER
ALL = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.gin"))
PARTS = {"layouts/common.gin", "runs/common.gin"}
RUNNABLE = [name for name in ALL if name not in PARTS]
MODELS, LAYOUTS, RUNS = (
    [name for name in RUNNABLE if name.startswith(folder)]
    for folder in ("models/", "layouts/", "runs/")
)


def head(name):
    """The comment that a file opens with, as one text without `#`."""
    lines = (FOLDER / name).read_text().splitlines()
    return "\n".join(
        line.removeprefix("#").strip()
        for line in itertools.takewhile(lambda line: line.startswith("#"), lines)
    )


def given_by_flags(*files):
    """Flags for what the files require."""
    macros = gin_files.read(files).macros
    values = {"TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 16}, "BATCH_SIZE": 64}
    required = [name for name, setting in macros.items() if setting.value == gin_files.REQUIRED]
    return [f"{name}={values.get(name, '/tmp/x')!r}" for name in required]


@pytest.fixture(scope="module", autouse=True)
def modules_read_once():
    """Thousands of checks below would parse the same task modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configurables, "module_source", functools.cache(configurables.module_source))
        yield


@pytest.mark.parametrize("name", ALL)
def test_a_file_opens_with_what_it_is_and_what_must_be_set(name):
    text = head(name)
    assert text
    assert "Must be set" in text
    if name not in PARTS:
        assert "Often overridden: " in text
        assert "switch-tf " in text


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_command_at_the_head_of_a_file_passes_the_checks_before_tensorflow(name, tmp_path):
    _, command, rest = re.split(r"(?m)^switch-tf (\w+) ", head(name))
    words = shlex.split(rest.replace("\\\n", " "))
    files = [word.partition("=")[2] for word in words if word.startswith("--gin_file=")]
    bindings = [word.removeprefix("--gin.") for word in words if word.startswith("--gin.")]
    assert len(files) + len(bindings) == len(words)
    assert name in files
    bindings = with_run(tmp_path, files, bindings, command == "train")
    given = config.precheck(files, bindings)
    module = importlib.import_module(f"switch_tf.commands.{command}")
    checks.check_files(files, bindings, module.NEEDS, module.RUN_FILE)
    checks.check_spans(given)
    checks.check_mesh(given)


@pytest.mark.parametrize("name", RUNNABLE)
def test_what_a_head_says_is_overridden_is_a_macro_of_the_files_in_its_command(name):
    text = head(name)
    listed = text.partition("Often overridden: ")[2].partition("switch-tf ")[0]
    command = text.partition("switch-tf ")[2]
    files = re.findall(r"--gin_file=(\S+)", command)
    known = gin_files.read(files).macros.keys() | configurables.project_source().macros.keys()
    macros = set(re.findall(r"\b[A-Z_]{4,}\b", listed))
    assert macros <= known
    assert macros or "nothing" in listed


@functools.cache
def said(files, bindings):
    """What `precheck` returns, or raises, by its text."""
    try:
        return config.precheck(files, bindings)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("run", RUNS)
def test_every_model_goes_with_every_layout_and_run_in_every_order(run):
    for model, layout in itertools.product(MODELS, LAYOUTS):
        files = (model, layout, run)
        bindings = tuple(given_by_flags(*files))
        first, *others = (said(order, bindings) for order in itertools.permutations(files))
        assert isinstance(first, dict), (files, first)
        assert all(other == first for other in others), files


def test_fine_tuning_has_its_dropout_before_and_behind_its_model():
    for model in ("models/switch_tiny.gin", "models/t5_tiny.gin"):
        for files in ([model, "runs/finetune.gin"], ["runs/finetune.gin", model]):
            given = config.precheck(files, given_by_flags(*files))
            assert (given["DROPOUT_RATE"], given["EXPERT_DROPOUT_RATE"]) == (0.1, 0.4)
            assert given["TransformerEncoderDecoder.dropout_rate"] == 0.1


@pytest.mark.parametrize("run", RUNS)
def test_a_run_sets_the_rates_of_dropout_that_models_ask_for(run):
    fine_tunes = "finetune" in run
    files = ["models/switch_tiny.gin", run]
    given = config.precheck(files, given_by_flags(*files))
    assert given["TransformerEncoderDecoder.dropout_rate"] == (0.1 if fine_tunes else 0.0)
    assert given["TransformerEncoderDecoder.expert_dropout_rate"] == (0.4 if fine_tunes else None)


def test_pretraining_packs_and_fine_tuning_and_the_quickstart_do_not():
    packs = {"runs/pretrain.gin": True, "runs/finetune.gin": False, "tables/quickstart.gin": False}
    for run, pack in packs.items():
        files = ["models/t5_tiny.gin", run]
        given = config.precheck(files, given_by_flags(*files))
        assert given["TaskData.pack"] is pack
        assert given["train.restore_optimizer"] is False


@pytest.mark.parametrize("run", ["paper_pretrain", "paper_finetune"])
def test_the_papers_runs_have_its_batch_of_two_to_the_twenty_tokens_and_pack(run):
    """Tokens as Mesh-TensorFlow counts them: of the longer of inputs and targets."""
    files = ["models/switch_base.gin", f"runs/{run}.gin"]
    given = config.precheck(files, given_by_flags(*files))
    longest = max(given["TaskData.task_feature_lengths"].values())
    assert given["TaskData.batch_size"] * longest == 2**20
    assert given["TaskData.pack"] is True


def test_the_papers_pretraining_has_its_schedule_and_its_objective():
    files = ["models/switch_base.gin", "runs/paper_pretrain.gin"]
    given = config.precheck(files, given_by_flags(*files))
    assert given["TaskData.mixture_or_task_name"] == "c4_span_corruption"
    assert given["MIXTURE_OR_TASK_MODULE"] == "switch_tf.tasks.c4"
    assert given["TaskData.task_feature_lengths"] == {"inputs": 512, "targets": 114}
    assert given["train.train_steps"] == 500_000
    assert given["rsqrt.warmup_steps"] == 10_000
    # By FLOPs: evaluation takes under a hundredth of training where there are 128 experts.
    steps_of_a_dropless_batch = 11 * given["Evaluation.batch_size"] / given["TaskData.batch_size"]
    steps = given["Evaluation.batches"] * steps_of_a_dropless_batch
    assert 100 * steps < given["Evaluation.period"]


def test_the_papers_fine_tuning_has_its_steps_rates_and_evaluations():
    files = ["models/switch_base.gin", "runs/paper_finetune.gin"]
    given = config.precheck(files, given_by_flags(*files))
    assert given["TaskData.mixture_or_task_name"] == "super_glue"
    assert given["MIXTURE_OR_TASK_MODULE"] == "switch_tf.tasks.super_glue"
    assert given["train.train_steps"] == 16_000
    assert given["constant.value"] == 1e-3
    assert given["train.restore_optimizer"] is True
    assert given["Evaluation.decode"] is True
    assert given["Evaluation.period"] == given["Evaluation.decode_period"] == 200


@pytest.mark.parametrize("arm", ["float32", "bfloat16", "selective"])
def test_the_arms_of_table_2_are_switch_base_of_32_experts_in_every_order(arm):
    files = (f"tables/precision_{arm}.gin", "layouts/expert_data.gin", "runs/plan.gin")
    first, *others = (config.precheck(order) for order in itertools.permutations(files))
    assert all(other == first for other in others)
    assert first["SwitchFFN.num_experts"] == 32
    dtype = "float32" if arm == "float32" else "bfloat16"
    assert first["TransformerEncoderDecoder.dtype"] == dtype
    router = {"float32": None, "bfloat16": "bfloat16", "selective": "float32"}[arm]
    assert first.get("Router.dtype") == router
    with pytest.raises(UserError, match="remove --gin_file=models/switch_base.gin, which tables/"):
        config.precheck([*files, "models/switch_base.gin"])
