"""What `switch-tf plan` prints of a small model on eight devices."""

import re

import gin
import pytest

from switch_tf.commands import main as main_module
from switch_tf.metrics import tables
from switch_tf.planner.dtypes import STAGES

SMALL = [
    *("plan", "--gin_file=models/switch_tiny.gin", "--gin_file=runs/plan.gin"),
    "--gin_file=layouts/expert_data.gin",
    "--gin.TransformerEncoderDecoder.num_layers=1",
    "--gin.BATCH_SIZE=32",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
    "--gin.GROUP_SIZE=64",
]


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def rows(text, heading):
    """Cells of a table's rows, by its heading's first cell."""
    lines = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    start = next(i for i, cells in enumerate(lines) if cells[0] == heading)
    end = next((i for i in range(start, len(lines)) if lines[i] == [""]), len(lines))
    return lines[start + 1 : end]


def test_what_crosses_devices_and_the_precision_of_each_stage_are_printed(capsys):
    settings = ["--gin.DTYPE='bfloat16'", "--gin.Router.z_loss_coef=0.001"]
    main_module.main([*SMALL, *settings, "--collectives", "--dtypes"])
    printed = capsys.readouterr().out
    stages = {stage: dtypes for stage, *dtypes in rows(printed, "stage")}
    assert list(stages) == list(STAGES)
    for stage, dtypes in stages.items():
        expected = "float32" if stage.startswith("router/") else "bfloat16"
        assert dtypes == [expected, expected], stage
    sent = [cells for cells in rows(printed, "collective") if cells[0] == "all-to-all"]
    # Of 8 groups of 64 and of 32 tokens, one a device: 8 experts take 10 and 5 of each.
    sizes = [8 * 10 * 64, 8 * 5 * 64]
    assert sorted(sent) == sorted(
        ["all-to-all", "bf16", f"{n:,}", "8", "4", tables.size(4 * 2 * n)] for n in sizes
    )


def test_groups_are_those_of_a_micro_batch_as_the_step_routes_them(capsys):
    def groups(*settings):
        main_module.main([*SMALL, *settings])
        cells = next(r for r in rows(capsys.readouterr().out, "switch layer"))
        return [int(cell) for cell in cells[2:5]]

    assert groups() == [8, 64, 10]
    assert groups("--gin.TrainStep.microbatches=4") == [8, 16, 4]


def test_groups_that_the_mesh_does_not_divide_are_told_before_anything_is_printed(capsys):
    with pytest.raises(SystemExit):
        main_module.main([*SMALL, "--gin.GROUPS_MULTIPLE=1", "--gin.GROUP_SIZE=512"])
    printed = capsys.readouterr()
    assert "set GROUPS_MULTIPLE=8" in printed.err
    assert printed.out == ""


def test_micro_batches_that_do_not_divide_the_batch_are_told(capsys):
    with pytest.raises(SystemExit):
        main_module.main([*SMALL, "--gin.TrainStep.microbatches=3"])
    assert "BATCH_SIZE=32 cannot be divided into 3 micro-batches" in capsys.readouterr().err


def test_weights_of_layers_that_are_alike_are_a_row(capsys):
    main_module.main([*SMALL, "--gin.TransformerEncoderDecoder.num_layers=3"])
    found = rows(capsys.readouterr().out, "largest weights")
    assert ["model/encoder/layer_*/feed_forward/switch_ffn/experts/wi", "3"] in [
        cells[:2] for cells in found
    ]
