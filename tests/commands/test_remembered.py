"""What commands take from the config.gin of runs, and what wins over it."""

import textwrap

import pytest

from switch_tf import config, gin_files
from switch_tf.commands import launch
from switch_tf.commands.remembered import remember
from switch_tf.errors import UserError

CONFIG = """
    BATCH_SIZE = 96
    DROPOUT_RATE = 0.0
    DTYPE = 'bfloat16'
    EXPERT_DROPOUT_RATE = None
    MESH_SHAPE = 'batch:4'
    MIXTURE_OR_TASK_MODULE = 'switch_tf.tasks.local_text'
    MIXTURE_OR_TASK_NAME = 'local_text_span_corruption'
    MODEL_DIR = 'runs/moved'
    NUM_EXPERTS = 4
    SEED = 3
    TASK_FEATURE_LENGTHS = {'inputs': 96, 'targets': 24}
    TRAIN_STEPS = 650
    VOCABULARY_PATH = 'data/moved.model'

    Adafactor.beta1 = 0.5
    Evaluation.batch_size = None
    Evaluation.batches = 16
    local_text.train = 'data/*.txt'
    ModelSetup.layout_rules = 'batch:batch'
    ModelSetup.mesh_shape = %MESH_SHAPE
    ModelSetup.model = @TransformerEncoderDecoder
    span_corruption.noise_density = 0.2
    SwitchFFN.num_experts = %NUM_EXPERTS
    SwitchLayer.group_size = 256
    TaskData.batch_size = %BATCH_SIZE
    TaskData.mixture_or_task_name = %MIXTURE_OR_TASK_NAME
    TaskData.module = %MIXTURE_OR_TASK_MODULE
    TaskData.pack = True
    TaskData.seed = %SEED
    TaskData.task_feature_lengths = %TASK_FEATURE_LENGTHS
    train.initial_checkpoint_path = None
    train.model_dir = %MODEL_DIR
    train.train_steps = %TRAIN_STEPS
    TransformerEncoderDecoder.d_ff = 48
    TransformerEncoderDecoder.d_model = 16
    TransformerEncoderDecoder.dropout_rate = %DROPOUT_RATE
    TransformerEncoderDecoder.dtype = %DTYPE
    TransformerEncoderDecoder.expert_dropout_rate = %EXPERT_DROPOUT_RATE
"""
EVAL, FINETUNE, MODEL = "runs/eval.gin", "runs/finetune.gin", "models/switch_tiny.gin"
LENGTHS = {"inputs": 96, "targets": 24}


def make(folder, text=CONFIG):
    """A MODEL_DIR with a configuration, an empty checkpoint and an empty vocabulary."""
    (folder / "checkpoint_7").mkdir(parents=True)
    (folder / "checkpoint_7/state.index").write_bytes(b"")
    (folder / "config.gin").write_text(textwrap.dedent(text).lstrip())
    (folder / "run.json").write_text("{}")
    (folder / "vocabulary.model").write_bytes(b"")
    return folder


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run")


def never(given):
    pytest.fail("TensorFlow is started for remote checkpoints alone")


def take(files, *bindings, trains=False, start=never):
    """The settings of a command that takes what it can, and its lines."""
    found = remember(files, bindings, trains, start)
    return config.precheck(found.files, [*found.statements, *bindings]), found.lines


def evaluating(run, *bindings, files=()):
    return take([*files, EVAL], f"CHECKPOINT_PATH='{run}'", *bindings)


def fine_tuning(run, *bindings, files=(), into="nowhere/new"):
    own = [f"MODEL_DIR='{into}'", f"INITIAL_CHECKPOINT_PATH='{run}'"]
    return take([*files, FINETUNE], *own, *bindings, trains=True)


@pytest.mark.parametrize("place", ["", "checkpoint_7"])
def test_an_evaluation_takes_model_task_and_vocabulary_of_the_run(run, place):
    given, lines = evaluating(run / place)
    assert given["TransformerEncoderDecoder.d_model"] == 16
    assert given["TransformerEncoderDecoder.dtype"] == "bfloat16"
    assert given["SwitchLayer.group_size"] == 256
    assert given["TaskData.task_feature_lengths"] == LENGTHS
    assert given["TaskData.batch_size"] == 96
    assert given["TaskData.mixture_or_task_name"] == "local_text_span_corruption"
    assert given["local_text.train"] == "data/*.txt"
    assert given["span_corruption.noise_density"] == 0.2
    assert given["VOCABULARY_PATH"] == f"{run}/vocabulary.model"
    assert lines == [f"model, vocabulary, task, lengths and batch size taken from {run}/config.gin"]


def test_it_takes_no_mesh_no_optimizer_and_no_limit_of_the_run(run):
    given, _ = evaluating(run)
    own = {"MESH_SHAPE", "ModelSetup.mesh_shape", "Adafactor.beta1", "Evaluation.batches"}
    own |= {"TaskData.pack", "TaskData.seed", "train.model_dir", "train.train_steps"}
    assert not own & given.keys()


def test_a_fine_tuning_takes_model_and_vocabulary_and_has_its_own_task_and_dropout(run):
    given, lines = fine_tuning(run)
    assert given["TransformerEncoderDecoder.d_ff"] == 48
    assert given["DTYPE"] == "bfloat16"
    assert given["VOCABULARY_PATH"] == f"{run}/vocabulary.model"
    assert given["TaskData.mixture_or_task_name"] == "pydocs_finetune"
    assert given["TaskData.task_feature_lengths"] == {"inputs": 128, "targets": 24}
    assert given["TransformerEncoderDecoder.dropout_rate"] == 0.1
    assert given["TransformerEncoderDecoder.expert_dropout_rate"] == 0.4
    assert "local_text.train" not in given
    assert lines == [f"model and vocabulary taken from {run}/config.gin"]


def test_a_fine_tuning_has_its_own_dropout_where_the_run_set_it_without_a_macro(tmp_path):
    text = CONFIG.replace(".dropout_rate = %DROPOUT_RATE", ".dropout_rate = 0.2")
    given, _ = fine_tuning(make(tmp_path / "run", text))
    assert given["TransformerEncoderDecoder.dropout_rate"] == 0.1


def test_a_fine_tuning_of_a_dense_model_has_no_rate_of_experts(tmp_path):
    text = CONFIG.replace(".expert_dropout_rate = %EXPERT_DROPOUT_RATE", ".init_scale = 0.1")
    with pytest.raises(UserError, match="nothing loaded reads the macro 'EXPERT_DROPOUT_RATE'"):
        fine_tuning(make(tmp_path / "run", text), "EXPERT_DROPOUT_RATE=0.2")


@pytest.mark.parametrize("patterns", [(), ("INITIAL_CHECKPOINT_SKIPPED=['switch_ffn']",)])
def test_a_fine_tuning_with_a_model_file_has_its_model(run, patterns):
    """Whether it may differ from the checkpoint's is checked when that is restored."""
    given, lines = fine_tuning(run, *patterns, files=["models/t5_tiny.gin"])
    assert given["TransformerEncoderDecoder.d_model"] == 64
    assert not {"SwitchFFN.num_experts", "SwitchLayer.group_size", "NUM_EXPERTS"} & given.keys()
    assert given["VOCABULARY_PATH"] == f"{run}/vocabulary.model"
    assert lines == [f"vocabulary taken from {run}/config.gin"]


def test_a_file_of_the_users_own_may_be_the_model_file(run, tmp_path):
    own = tmp_path / "own.gin"
    own.write_text("include 'models/t5_tiny.gin'\nTransformerEncoderDecoder.num_layers = 3\n")
    given, _ = fine_tuning(run, files=[str(own)])
    assert "SwitchFFN.num_experts" not in given
    # One without the model's sizes says in what the run's model differs, as flags do.
    own.write_text("TransformerEncoderDecoder.num_layers = 3\n")
    by_flag = fine_tuning(run, "TransformerEncoderDecoder.num_layers=3")[0]
    for given in (fine_tuning(run, files=[str(own)])[0], by_flag):
        assert given["TransformerEncoderDecoder.d_model"] == 16
        assert given["TransformerEncoderDecoder.num_layers"] == 3
        assert given["SwitchFFN.num_experts"] == 4


@pytest.fixture
def of_files(tmp_path):
    """A MODEL_DIR whose model is that of models/switch_tiny.gin, with defaults, as gin saves it."""
    settings = gin_files.read([MODEL], ["VOCABULARY_PATH='t5.model'", "DROPOUT_RATE=0.0"])
    settings.bindings |= gin_files.read(
        [],
        [
            "ModelSetup.model=@TransformerEncoderDecoder",
            "TransformerEncoderDecoder.encoder_sparse_layers=None",
            "TransformerEncoderDecoder.rematerialize=False",
            "TransformerEncoderDecoder.switch_ffn=@switch_ffn.SwitchFFN",
            "SwitchLayer.router=@SwitchRouter",
            "Router.load_balancing_over='tokens'",
        ],
    ).bindings
    entries = settings.entries().items()
    text = "".join(f"{gin_files.written(k)} = {gin_files.text(s.value)}\n" for k, s in entries)
    return make(tmp_path / "run", text)


OF_TASK = (
    "BATCH_SIZE=4",
    "MIXTURE_OR_TASK_NAME='pydocs_finetune'",
    "TASK_FEATURE_LENGTHS={'inputs':8,'targets':8}",
)


def test_a_model_file_that_an_evaluation_does_not_use_is_told(of_files):
    """Also if it only lacks what the run has, such as experts."""
    given, lines = evaluating(of_files, *OF_TASK, files=["models/t5_tiny.gin"])
    assert given["TransformerEncoderDecoder.expert_frequency"] == 1
    told = f"models/t5_tiny.gin is not used: the model is that of {of_files}/config.gin"
    assert lines[1:] == [told]
    changed = (
        (of_files / "config.gin").read_text().replace("remat", "float32_softmax_logits=False\n#")
    )
    (of_files / "config.gin").write_text(changed.replace("NUM_EXPERTS = 8", "NUM_EXPERTS = 4"))
    _, lines = evaluating(of_files, *OF_TASK, files=[MODEL])
    assert lines[1] == f"{MODEL} is not used: the model is that of {of_files}/config.gin"


def test_nothing_is_told_of_the_model_file_of_the_run(of_files):
    for flags in ((), ("SwitchLayer.group_size=64",), ("NUM_EXPERTS=4",)):
        _, lines = evaluating(of_files, *OF_TASK, *flags, files=[MODEL])
        assert not [line for line in lines if "not used" in line]


def test_a_resumed_fine_tuning_takes_its_own_model_and_needs_the_initial_checkpoint_no_more(
    run, tmp_path
):
    """Which may be gone, or be of another model by now."""
    text = textwrap.dedent(CONFIG).replace("d_ff = 48", "d_ff = 32")
    text = "\n".join(
        line for line in text.splitlines() if not line.startswith(("TaskData", "span"))
    )
    into = make(tmp_path / "into", text)
    for initial in (run, tmp_path / "gone"):
        given, lines = fine_tuning(initial, into=into)
        assert given["TransformerEncoderDecoder.d_ff"] == 32
        assert given["VOCABULARY_PATH"] == f"{into}/vocabulary.model"
        assert lines == [f"model and vocabulary taken from {into}/config.gin"]
        flags = [f"--gin.MODEL_DIR='{into}'", f"--gin.INITIAL_CHECKPOINT_PATH='{initial}'"]
        launched = launch.check("train", "", [f"--gin_file={FINETUNE}", *flags])
        assert launched.given["TransformerEncoderDecoder.d_ff"] == 32


def test_a_remote_run_is_resumed_once_tensorflow_is_started(run, tmp_path):
    started, place = [], f"file://{run}"
    own = f"MODEL_DIR='{place}'", f"INITIAL_CHECKPOINT_PATH='{tmp_path}/gone'"
    given, _ = take([FINETUNE], *own, trains=True, start=started.append)
    assert given["VOCABULARY_PATH"] == f"{place}/vocabulary.model"
    assert [values["MODEL_DIR"] for values in started] == [place]


def test_a_fine_tuning_that_starts_needs_its_initial_checkpoint(tmp_path):
    (tmp_path / "into").mkdir()
    with pytest.raises(UserError, match="^INITIAL_CHECKPOINT_PATH='.*/gone': no such folder"):
        fine_tuning(tmp_path / "gone", into=tmp_path / "into")


def test_the_run_wins_over_the_projects_files_and_each_difference_is_told(run):
    given, lines = evaluating(run, files=[MODEL])
    assert (given["DTYPE"], given["NUM_EXPERTS"], given["SwitchLayer.group_size"]) == (
        "bfloat16",
        4,
        256,
    )
    of_model = [line for line in lines if "gin/models" in line]
    assert f"  NUM_EXPERTS=4 ({run}/config.gin:9), not 8 (gin/models/switch_tiny.gin:8)" in of_model
    assert any(line.startswith("  DTYPE='bfloat16' (") for line in of_model)
    assert any(line.startswith("  SwitchLayer.group_size=256 (") for line in of_model)
    # What the run did not set stands as the file has it.
    assert any(
        line.startswith("  SwitchLayer.groups_multiple=8 (gin/models/switch_tiny.gin:")
        and line.endswith(f"), not set in {run}/config.gin")
        for line in of_model
    )


def test_flags_win_over_the_run_and_are_told(run):
    given, lines = evaluating(
        run, "DTYPE='float32'", "TASK_FEATURE_LENGTHS={'inputs':8,'targets':4}"
    )
    assert given["TransformerEncoderDecoder.dtype"] == "float32"
    assert given["TaskData.task_feature_lengths"] == {"inputs": 8, "targets": 4}
    config_of_run = f"{run}/config.gin"
    assert f"  DTYPE='float32' (--gin.DTYPE), not 'bfloat16' ({config_of_run}:3)" in lines
    assert (
        "  TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4} (--gin.TASK_FEATURE_LENGTHS), not "
        f"{{'inputs': 96, 'targets': 24}} ({config_of_run}:11)"
    ) in lines


def test_a_flag_wins_where_the_run_set_the_parameter_itself(tmp_path):
    text = CONFIG.replace("batch_size = %BATCH_SIZE", "batch_size = 7")
    run = make(tmp_path / "run", text)
    assert evaluating(run)[0]["TaskData.batch_size"] == 7
    assert evaluating(run, "BATCH_SIZE=5")[0]["TaskData.batch_size"] == 5
    assert evaluating(run, "TaskData.batch_size=6")[0]["TaskData.batch_size"] == 6


@pytest.mark.parametrize("order", [1, -1])
def test_a_users_own_file_wins_over_the_run_in_every_order(run, tmp_path, order):
    own = tmp_path / "own.gin"
    own.write_text("TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 4}\nDTYPE = 'float32'\n")
    given, lines = take([str(own), EVAL][::order], f"CHECKPOINT_PATH='{run}'")
    assert given["TaskData.task_feature_lengths"] == {"inputs": 8, "targets": 4}
    assert given["TransformerEncoderDecoder.dtype"] == "float32"
    assert f"  DTYPE='float32' ({own}:2), not 'bfloat16' ({run}/config.gin:3)" in lines


def test_a_vocabulary_given_by_a_flag_wins_over_the_copy(run):
    given, lines = fine_tuning(run, "VOCABULARY_PATH='own.model'")
    assert given["VOCABULARY_PATH"] == "own.model"
    copy = f"'{run}/vocabulary.model' ({run}/config.gin)"
    assert f"  VOCABULARY_PATH='own.model' (--gin.VOCABULARY_PATH), not {copy}" in lines


def test_without_a_copy_the_vocabulary_is_the_one_that_the_run_names(run):
    (run / "vocabulary.model").unlink()
    assert fine_tuning(run)[0]["VOCABULARY_PATH"] == "data/moved.model"


def test_the_batch_size_is_that_of_the_runs_evaluations(tmp_path):
    text = CONFIG.replace("Evaluation.batch_size = None", "Evaluation.batch_size = 12")
    run = make(tmp_path / "run", text)
    assert evaluating(run)[0]["TaskData.batch_size"] == 12
    assert evaluating(run, "BATCH_SIZE=5")[0]["TaskData.batch_size"] == 5


def test_what_the_project_has_no_more_is_left_out(tmp_path):
    older = "SwitchRouter.gone = 1\nGoneRouter.temperature = 1\ntrain.batch_size = 8\n"
    given, _ = evaluating(make(tmp_path / "run", textwrap.dedent(CONFIG) + older))
    assert given["TransformerEncoderDecoder.d_model"] == 16
    assert not {"SwitchRouter.gone", "GoneRouter.temperature", "train.batch_size"} & given.keys()


def test_a_router_of_the_users_own_comes_with_its_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_router.py").write_text(
        "import gin\n\n@gin.configurable\nclass OwnRouter:\n    def __init__(self, spread=1): ...\n"
    )
    text = textwrap.dedent(CONFIG) + "SwitchLayer.router = @OwnRouter\nOwnRouter.spread = 2\n"
    run = make(tmp_path / "run", f"import own_router\n{text}")
    for given, _ in (evaluating(run), fine_tuning(run)):
        assert given["OwnRouter.spread"] == 2


@pytest.mark.parametrize("order", [1, -1])
def test_a_runs_config_goes_with_the_file_of_an_evaluation(run, order):
    files = [f"{run}/config.gin", EVAL][::order]
    given, _ = take(files, f"CHECKPOINT_PATH='{run}'")
    alone, _ = evaluating(run)
    assert alone.items() <= given.items()
    # It also says what only a file that is named says.
    assert given["ModelSetup.mesh_shape"] == "batch:4"
    assert given["Evaluation.batches"] == 16
    assert "train.model_dir" not in given


def test_a_runs_config_alone_says_all_that_a_plan_needs(run):
    given, _ = take([f"{run}/config.gin"])
    assert given["ModelSetup.mesh_shape"] == "batch:4"
    assert given["Adafactor.beta1"] == 0.5
    assert given["TaskData.batch_size"] == 96


def test_a_runs_config_is_the_whole_run_for_who_trains(run):
    files = [f"{run}/config.gin"]
    assert remember(files, [], True, never).files == files


def test_a_remote_config_of_a_run_is_refused_in_one_line(run):
    remote = f"file://{run}/config.gin"
    with pytest.raises(UserError, match=f"^--gin_file: '{remote}' is remote, but gin files have "):
        take([remote, EVAL])


def test_a_checkpoint_without_a_configuration_gives_nothing(run):
    (run / "config.gin").unlink()
    found = remember([EVAL], [f"CHECKPOINT_PATH='{run}'"], False, never)
    assert (found.statements, found.lines) == ([], [])


def test_a_folder_without_checkpoints_is_one_line(tmp_path):
    with pytest.raises(UserError, match=f"CHECKPOINT_PATH='{tmp_path}': no checkpoint there: "):
        evaluating(tmp_path)


def test_a_remote_checkpoint_is_read_once_tensorflow_is_started(run, monkeypatch):
    from tests.helpers import on_ram

    started = []
    with on_ram(run) as place:
        given, lines = take([EVAL], f"CHECKPOINT_PATH='{place}'", start=started.append)
    assert given["VOCABULARY_PATH"] == f"{place}/vocabulary.model"
    assert lines[0].endswith(f" taken from {place}/config.gin")
    assert [values["CHECKPOINT_PATH"] for values in started] == [place]
