"""What is told of settings that a resumed run changes."""

import pytest

from switch_tf.commands.resumed import changes

FILES = ["models/switch_tiny.gin", "runs/pretrain.gin"]
SAVED = """BATCH_SIZE = 64
DTYPE = 'bfloat16'
MODEL_DIR = 'elsewhere'
TRAIN_STEPS = 5

Adafactor.beta1 = 0.5
Evaluation.batches = 3
schedules.rsqrt.scale = 1.0
Router.dtype = 'float32'
TaskData.batch_size = %BATCH_SIZE
train.model_dir = %MODEL_DIR
train.optimizer = @switch_tf.optimizers.adafactor.Adafactor
train.train_steps = %TRAIN_STEPS
TransformerEncoderDecoder.dtype = %DTYPE
"""


@pytest.fixture
def told(tmp_path):
    (tmp_path / "config.gin").write_text(SAVED)

    def lines(*bindings):
        found = changes(FILES, [f"MODEL_DIR='{tmp_path}'", *bindings], str(tmp_path))
        return [line.replace(f"{tmp_path}/", "") for line in found]

    return lines


SAME = (
    "BATCH_SIZE=64",
    "DTYPE='bfloat16'",
    "TRAIN_STEPS=5",
    "Adafactor.beta1=0.5",
    "Evaluation.batches=3",
)


def test_the_same_settings_are_not_told(told):
    assert told(*SAME) == []


def test_each_setting_that_differs_is_told_with_both_places(told):
    assert told(*SAME, "TRAIN_STEPS=50", "DTYPE='float32'") == [
        "settings of this run that are new since config.gin:",
        "  DTYPE='float32' (--gin.DTYPE), not 'bfloat16' (config.gin:2)",
        "  TRAIN_STEPS=50 (--gin.TRAIN_STEPS), not 5 (config.gin:4)",
    ]


def test_another_checkpoint_to_start_from_is_not_used_and_that_is_told(tmp_path):
    saved = (
        "INITIAL_CHECKPOINT_PATH = '/a'\ntrain.initial_checkpoint_path = %INITIAL_CHECKPOINT_PATH\n"
    )
    (tmp_path / "config.gin").write_text(saved)

    def lines(path):
        files = ["models/switch_tiny.gin", "runs/finetune.gin"]
        bindings = [f"MODEL_DIR='{tmp_path}'", f"INITIAL_CHECKPOINT_PATH={path}"]
        found = changes(files, [*bindings, "TRAIN_STEPS=1"], str(tmp_path))
        return [line for line in found if "INITIAL" in line]

    assert lines("'/a'") == []
    assert lines("'/b'") == [
        "  INITIAL_CHECKPOINT_PATH='/b' (--gin.INITIAL_CHECKPOINT_PATH) is not used: the run "
        "resumes, and began with '/a'; to begin with this one, give another MODEL_DIR"
    ]


def test_a_flag_that_is_left_out_is_told_with_what_holds_now(told):
    heading, *lines = told(*SAME[:3], SAME[4])
    assert lines == ["  Adafactor.beta1=0.0 (its default), not 0.5 (config.gin:6)"]


def test_another_optimizer_is_told(told):
    heading, line = told(*SAME, "train.optimizer=@AdamW")
    assert line.startswith("  train.optimizer=@AdamW (--gin.train.optimizer), not @")


def test_a_folder_without_a_configuration_says_nothing(tmp_path):
    assert changes(FILES, [], str(tmp_path)) == []
