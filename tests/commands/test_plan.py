"""What `switch-tf plan` prints of a small model on eight devices."""

import re
import shlex
from pathlib import Path

import gin
import pytest

from switch_tf import gin_files
from switch_tf.commands import main as main_module
from switch_tf.metrics import tables
from switch_tf.pages.planned import step_of
from switch_tf.planner import ranking
from switch_tf.planner.dtypes import STAGES
from switch_tf.planner.slices import Slice

SMALL = [
    *("plan", "--gin_file=models/switch_tiny.gin", "--gin_file=runs/plan.gin"),
    "--gin_file=layouts/expert_data.gin",
    "--gin.TransformerEncoderDecoder.num_layers=1",
    "--gin.BATCH_SIZE=32",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
    "--gin.GROUP_SIZE=64",
]


ROOT = Path(__file__).parents[2]


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


def told(capsys, *flags):
    """What is printed, the error on stderr, and the exit status."""
    status = 0
    try:
        main_module.main([*flags])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    # Beside lines on what takes long.
    errors = [line for line in printed.err.splitlines() if ": error: " in line]
    return printed.out, "\n".join(errors), status


def test_a_slice_is_planned_on_the_mesh_that_is_given(capsys):
    out, err, status = told(capsys, *SMALL, "--slice=v3-8")
    assert status == 0 and not err
    assert "v3-8: 4 chips, 8 devices (TensorCores) of 61.5 TFLOP/s" in out
    kinds = [cells[0] for cells in rows(out, "on each device")]
    assert kinds[:4] == ["weights", "gradients", "optimizer slots", "activations"]
    assert {cells[0] for cells in rows(out, "in a step")[:2]} == {"all-reduce", "all-to-all"}
    assert re.search(r"a step: matrix products \S+ s, memory \S+ s, .* examples/s", out)
    assert re.search(r"100,000 steps: \S+ hours, \S+ chip-hours, \S+ dollars at 2.00 a chip", out)
    assert "it fits: " in out


def test_what_does_not_fit_a_slice_ends_with_a_line_and_status_2(capsys):
    flags = ("plan", "--gin_file=models/switch_base.gin", "--gin_file=runs/plan.gin")
    flags += ("--gin_file=layouts/data.gin", "--gin.GROUPS_MULTIPLE=8")
    out, err, status = told(capsys, *flags, "--slice=v3-8")
    assert status == 2 and "it fits" not in out
    assert re.match(r"switch-tf: error: the step needs \S+ GB on each device, but a device of", err)


def test_without_a_mesh_those_that_fit_are_listed_the_fastest_first(capsys):
    flags = [flag for flag in SMALL if "layouts" not in flag]
    out, _, status = told(capsys, *flags, "--cores=8")
    found = rows(out, "layout")
    seconds = [float(cells[5]) for cells in found if cells[0] in ("data", "expert_data")]
    assert status == 0 and seconds == sorted(seconds) and len(seconds) == 2
    assert told(capsys, *flags, "--slice=v3-8")[0] == out


BAD_SLICES = {
    ("--slice=v9-8",): "--slice='v9-8': give TYPE-NUMBER",
    ("--slice=v3-16",): "MESH_SHAPE has 8 devices, but v3-16 has 16, 2 a chip",
    ("--cores=8",): "--cores lists meshes: leave MESH_SHAPE and gin/layouts out",
    ("--cores=8", "--slice=v3-8"): "--cores and --slice name two slices: leave one out",
}


@pytest.mark.parametrize("flags", BAD_SLICES, ids=" ".join)
def test_flags_that_name_no_slice_for_the_mesh_are_told(flags, capsys):
    _, err, status = told(capsys, *SMALL, *flags)
    assert status == 2 and err.startswith(f"switch-tf: error: {BAD_SLICES[flags]}")


BAD_CORES = {
    "many": "--cores='many': give a number of TPU v3 cores, such as 512",
    "0": "--cores='0': give a number of TPU v3 cores, such as 512",
    "7": "--cores='7': the number of a v3 counts TensorCores, 2 a chip: give a multiple of 2",
    "2097152": "--cores='2097152': give at most 1048576, far more than any machine has",
    "8192": "no mesh and layout of v3-8192 fits (",
}


@pytest.mark.parametrize("cores", BAD_CORES)
def test_cores_on_which_nothing_can_be_planned_are_told(cores, capsys):
    flags = [flag for flag in SMALL if "layouts" not in flag]
    _, err, status = told(capsys, *flags, f"--cores={cores}")
    assert status == 2 and err.startswith(f"switch-tf: error: {BAD_CORES[cores]}")


SLICES = sorted(path.stem for path in (gin_files.GIN_FOLDER / "slices").glob("*.gin"))


@pytest.mark.parametrize("name", SLICES)
def test_switch_base_fits_each_slice_that_has_a_file(name, capsys, tmp_path):
    """By the flags at the head of the file; and nothing that fits is faster."""
    (tmp_path / "t5.model").write_text("not read by a plan")
    text = (gin_files.GIN_FOLDER / "slices" / f"{name}.gin").read_text()
    (groups,) = re.findall(r"--gin\.(GROUPS_MULTIPLE=\d+)", text)
    (on,) = re.findall(r"--slice=(\S+[^.\s])", text)
    assert on.replace("-", "_") == name
    flags = ("--gin_file=models/switch_base.gin", f"--gin_file=slices/{name}.gin")
    flags += ("--gin_file=runs/paper_pretrain.gin", f"--gin.{groups}")
    flags += (f"--gin.MODEL_DIR='{tmp_path}/a'", f"--gin.VOCABULARY_PATH='{tmp_path}/t5.model'")
    out, err, status = told(capsys, "plan", *flags, f"--slice={on}")
    assert (status, err) == (0, "") and "it fits: " in out
    assert "500,000 steps: " in out
    speed = float(re.search(r"([\d,]+) examples/s", out)[1].replace(",", ""))
    best = ranking.rank(step_of("switch_base", ()), Slice.parse(on)).choices[0].estimate
    assert speed == pytest.approx(best.examples_per_second, rel=0.01)


@pytest.mark.parametrize("page", ["planning.md", "tpu.md"])
def test_a_page_quotes_what_is_planned_for_a_slice(page, capsys):
    """To the figure: those of a slice do not depend on this machine."""
    text = (ROOT / "docs" / page).read_text()
    shown = re.findall(
        r"^```\n(switch-tf plan .*?)^```\n.*?^```console\n(.*?)^```$", text, re.M | re.S
    )
    shown = [pair for pair in shown if "--slice=" in pair[0]]
    assert shown
    for command, quoted in shown:
        main_module.main(shlex.split(command.replace("\\\n", " "))[1:])
        assert set(quoted.splitlines()) <= set(capsys.readouterr().out.splitlines())


def test_the_runs_of_the_page_on_tpu_have_groups_that_their_slices_divide(capsys):
    """What a launch there would be refused for, after the slice is paid for."""
    text = (ROOT / "docs" / "tpu.md").read_text()
    runs = re.findall(r"^scripts/tpu/.*?--type=(\S+) .*?-- train (.*?)^```$", text, re.M | re.S)
    assert {name for name, _ in runs} == {"v4-32", "v3-2048"}
    others = r"--gin\.(MODEL_DIR|VOCABULARY_PATH|USE_CACHED_TASKS|CACHE_DIR|Evaluation.*)=|.*runs/"
    for name, flags in runs:
        words = shlex.split(flags.replace("\\\n", " "))
        # The rows of runs/paper_pretrain.gin, unless the command gives others.
        rows = ["--gin_file=runs/plan.gin", "--gin.BATCH_SIZE=2048"]
        kept = rows + [word for word in words if not re.match(others, word)]
        main_module.main(["plan", *kept, f"--slice={name}"])
        assert "it fits" in capsys.readouterr().out
