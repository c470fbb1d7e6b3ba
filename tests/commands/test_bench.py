import gzip
import json
import os
import re
import shlex
import sys
from pathlib import Path

import gin
import numpy as np
import pytest

from switch_tf.benches import input as bench_input
from switch_tf.benches.precision import _variants
from switch_tf.commands import launch
from switch_tf.commands import main as main_module
from switch_tf.layers.context import collect
from tests.commands.without_tensorflow import run_without_tensorflow
from tests.data import cached_tasks
from tests.helpers import compiled, random_features, task_data, tiny_model
from tests.tasks.conftest import make_documents

FILES = ["--gin_file=models/switch_tiny.gin", "--gin_file=layouts/expert_data.gin"]
PRETRAIN = "--gin_file=runs/pretrain.gin"
PLAN = "--gin_file=runs/plan.gin"
SMALL_MODEL = [
    "--gin.TransformerEncoderDecoder.num_layers=1",
    "--gin.TransformerEncoderDecoder.d_model=16",
    "--gin.TransformerEncoderDecoder.d_ff=32",
    "--gin.BATCH_SIZE=8",
]
SHORT = ["--gin.bench_input.rounds=1", "--gin.bench_input.seconds=1"]
SMALL = [
    *SMALL_MODEL,
    *SHORT,
    "--gin.MESH_SHAPE='batch:2'",
    "--gin.NUM_EXPERTS=4",
    "--gin.GROUPS_MULTIPLE=2",
    "--gin.VOCAB_SIZE=384",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 40, 'targets': 24}",
]


def page(name):
    """Blocks and commands of a page of docs."""
    text = (Path(__file__).parents[2] / "docs" / name).read_text()
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return blocks, [shlex.split(line)[1:] for line in lines if line.startswith("switch-tf ")]


BLOCKS, COMMANDS = page("input.md")


@pytest.fixture(autouse=True)
def no_configuration_left():
    before = os.sched_getaffinity(0)
    yield
    assert os.sched_getaffinity(0) == before
    gin.clear_config()


def shape_of(text):
    """Lines with each number as 0 and blanks as one, without what the machine's speed decides."""
    lines = [re.sub(r"\s+", " ", re.sub(r"[\d,.]*\d", "0", line)) for line in text.splitlines()]
    return [line.split(" (0 to 0)")[0].strip() for line in lines]


def numbers(text, name):
    """Median, lowest and highest of the rows of this name."""
    rows = re.findall(rf"^{name} +([\d,.]+) +([\d,.]+) +([\d,.]+)$", text, re.MULTILINE)
    return [tuple(float(cell.replace(",", "")) for cell in row) for row in rows]


def test_a_task_is_timed_without_a_model_dir(tmp_path, capsys):
    task = [
        "--gin.MIXTURE_OR_TASK_MODULE='tests.toy_task'",
        "--gin.MIXTURE_OR_TASK_NAME='toy_copy'",
        "--gin.PACK=False",
    ]
    written = tmp_path / "input.json"
    task.append(f"--gin.bench_input.output_path='{written}'")
    main_module.main(["bench", "input", *FILES, PRETRAIN, *SMALL, *task])
    output = capsys.readouterr().out
    assert "input: 'toy_copy', split 'train', on one core of " in output
    assert "rounds: 1 of 1 s" in output
    assert f"training steps on one batch of {8 * 64} positions, 2 devices on " in output
    delivered, consumed = numbers(output, "positions/s")
    (tokens,) = numbers(output, "tokens/s, without padding")
    (padding,) = numbers(output, "padding, %")
    (seconds,) = numbers(output, "seconds per step")
    for median, lowest, highest in (delivered, consumed, tokens, padding, seconds):
        assert 0 < lowest == median == highest
    # Words of one to five letters, a full stop and an end, in 64 positions.
    assert 80 < padding[0] < 100
    assert tokens[0] == pytest.approx(delivered[0] * (1 - padding[0] / 100), rel=0.02)
    assert consumed[0] == pytest.approx(8 * 64 / seconds[0], rel=0.05)
    figures = json.loads(written.read_text())
    assert figures["input_positions_per_second"] == pytest.approx(delivered[0], abs=1)
    assert figures["step_seconds_upper_quartile"] == pytest.approx(seconds[0], abs=1e-4)
    told = re.search(r"^one core delivers ([\d.]+) times what the model", output, re.MULTILINE)
    assert float(told[1]) == pytest.approx(delivered[0] / consumed[0], rel=0.01, abs=0.06)


def test_a_cached_task_is_read_from_its_cache_as_the_run_is_set(tmp_path, capsys, monkeypatch):
    cached_tasks.write(tmp_path, "cached_pairs")
    seen = {}
    train_batches = bench_input.train_batches

    def watch(data, wanted=None):
        seen["data"] = data
        seen.setdefault("wanted", []).append(wanted)
        return train_batches(data, wanted)

    monkeypatch.setattr(bench_input, "train_batches", watch)
    main_module.main(
        [
            *("bench", "input", *FILES, PRETRAIN, *SMALL, "--gin.SEED=3"),
            "--gin.TaskData.pack=True",
            "--gin.MIXTURE_OR_TASK_MODULE='tests.data.cached_tasks'",
            "--gin.MIXTURE_OR_TASK_NAME='cached_pairs'",
            *("--gin.USE_CACHED_TASKS=True", f"--gin.CACHE_DIR='{tmp_path}'"),
            "--gin.bench_input.hosts=2",
        ]
    )
    output = capsys.readouterr().out
    assert "cache of 1 task, 1,300 cached examples" in output
    assert "this host makes 4 of 8 rows" in output
    assert f"training steps on one batch of {8 * 64} positions" in output
    assert seen["wanted"] == [range(4), None]
    assert seen["data"] == task_data(
        *("cached_pairs", {"inputs": 40, "targets": 24}, 8),
        pack=True,
        seed=3,
        use_cached=True,
        module="tests.data.cached_tasks",
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["inptu"],
            "argument WHAT: invalid choice: 'inptu' (choose from 'collectives', 'decode', 'input', "
            "'layer', 'precision', 'train')",
        ),
        ([], "the following arguments are required: WHAT; see switch-tf bench --help"),
        (["input"], "--gin_file is missing; see switch-tf bench input --help"),
        (
            ["input", FILES[0]],
            "no --gin_file sets TaskData.batch_size: add --gin_file=runs/pretrain.gin",
        ),
        (
            ["input", FILES[0], "--gin.TaskData.batch_size=8"],
            "no --gin_file sets TaskData.task_feature_lengths: add --gin_file=runs/pretrain.gin",
        ),
        (
            ["input", FILES[0], PRETRAIN, "--gin.bench_input.rounds=0"],
            "--gin.bench_input.rounds=0: give a whole number of at least 1",
        ),
        (
            ["input", FILES[0], PRETRAIN, "--gin.bench_input.round=2"],
            "--gin.bench_input.round: 'bench_input' has no parameter 'round'; nearest: rounds",
        ),
        (
            ["train", FILES[0], PLAN, "--against=t5x"],
            "argument --against: invalid choice: 't5x' (choose from 'hf')",
        ),
        (["layer"], "--gin_file is missing; see switch-tf bench layer --help"),
        (
            ["layer", FILES[0]],
            "no --gin_file sets TaskData.batch_size: add --gin_file=runs/plan.gin",
        ),
        (
            ["layer", FILES[0], PLAN, "--gin.bench_layer.rounds=0"],
            "--gin.bench_layer.rounds=0: give a whole number of at least 1",
        ),
    ],
)
def test_bad_input_is_one_line_before_tensorflow_starts(arguments, message):
    done = run_without_tensorflow("bench", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"switch-tf: error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("given", [[], ["--gin.MODEL_DIR='{folder}'"]])
def test_what_only_a_run_needs_is_not_asked_for_nor_looked_at(given, tmp_path, monkeypatch):
    class Started(BaseException):
        """The command line was found good."""

    def start(self):
        raise Started

    # A run of another model.
    (tmp_path / "config.gin").write_text("TransformerEncoderDecoder.d_model = 32\n")
    given = [argument.format(folder=tmp_path) for argument in given]
    monkeypatch.setattr(launch.Launch, "start", start)
    with pytest.raises(Started):
        main_module.main(["bench", "input", *FILES, "--gin_file=runs/finetune.gin", *given])


@pytest.mark.parametrize("arguments", [["--help"], ["input", "--help"], ["layer", "--help"]])
def test_help_needs_no_tensorflow(arguments):
    done = run_without_tensorflow("bench", *arguments)
    assert done.returncode == 0, done.stderr
    assert "input" in done.stdout or "Switch layer" in done.stdout


def rows_of_layers(arguments, capsys):
    """Router -> the other cells of its row: capacity, ms, ratio, tokens/s, dropped, max / mean."""
    main_module.main(
        [
            *("bench", "layer", *FILES, PLAN, *SMALL_MODEL, "--gin.bench_layer.rounds=2"),
            *("--gin.TASK_FEATURE_LENGTHS={'inputs': 40, 'targets': 24}", *arguments),
        ]
    )
    heading, _, *lines = capsys.readouterr().out.splitlines()
    assert heading.endswith(
        "8 experts, d_model 16, float32; forward and backward of 8 x 40 tokens, 8 devices; median "
        "of 2 timings, taken in turn"
    )
    cells = (re.split(r"  +", line.strip()) for line in lines)
    return {name: [float(cell.replace(",", "")) for cell in rest] for name, *rest in cells}


def test_a_layer_is_timed_under_skews_and_at_capacities(capsys):
    rows = rows_of_layers(["--gin.CAPACITY_FACTOR=1.0"], capsys)
    own = [f"SwitchRouter, capacity factor {factor}" for factor in ("1", "1.25", "1.5", "2")]
    assert list(rows) == ["uniform", "zipf", "worst case", *own]
    # 8 groups of 40 tokens.
    assert [rows[name][0] for name in rows] == [5, 5, 5, 5, 6, 7, 10]
    assert all(cells[1] > 0 and cells[2] >= 1.0 and cells[3] > 0 for cells in rows.values())
    assert min(cells[2] for cells in rows.values()) == 1.0
    dropped = {name: cells[4] for name, cells in rows.items()}
    assert (dropped["uniform"], dropped["worst case"]) == (0.0, 87.5)
    assert 0 < dropped["zipf"] < 87.5
    assert dropped[own[0]] >= dropped[own[1]] >= dropped[own[2]] >= dropped[own[3]]
    assert [rows[name][5] for name in ("uniform", "worst case")] == [1.0, 8.0]


def test_a_router_with_settings_of_its_own_is_timed_beside_the_skews(capsys):
    settings = ["--gin.SwitchLayer.router=@TopKRouter", "--gin.TopKRouter.k=3"]
    rows = rows_of_layers([*settings, "--gin.bench_layer.capacity_factors=(8.0,)"], capsys)
    assert list(rows) == ["uniform", "zipf", "worst case", "TopKRouter, capacity factor 8"]
    assert rows["TopKRouter, capacity factor 8"][4] == 0.0


def test_a_model_without_a_switch_layer_has_none_to_time(capsys):
    files = ["--gin_file=models/t5_tiny.gin", PLAN, *SMALL_MODEL]
    with pytest.raises(SystemExit):
        main_module.main(["bench", "layer", *files])
    assert "no Switch layer: add --gin_file=models/switch_tiny.gin" in capsys.readouterr().err


def test_the_float32_parts_of_a_step_are_timed(capsys):
    small = [*SMALL_MODEL, "--gin.MESH_SHAPE='batch:2'", "--gin.bench_precision.rounds=1"]
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}"
    main_module.main(["bench", "precision", *FILES, PLAN, *small, lengths])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a training step of 8 x (16 + 8) tokens, bfloat16, 2 devices")
    rows = [re.split(r"  +", line) for line in lines[1:]]
    names = ["in bfloat16", "none of these", "attention logits", "softmax logits", "router"]
    assert [row[0] for row in rows] == names
    whole = float(rows[1][1])
    assert whole > 0
    for _, milliseconds, ratio in rows[1:]:
        assert float(ratio) == pytest.approx(float(milliseconds) / whole, rel=0.05, abs=0.01)


def test_a_step_is_timed_against_the_machine_and_split_into_its_parts(tmp_path, capsys):
    small = [*SMALL_MODEL, "--gin.MESH_SHAPE='batch:2'", "--gin.bench_train.rounds=2"]
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}"
    output = f"--gin.bench_train.output_path='{tmp_path}/step.json'"
    main_module.main(["bench", "train", *FILES, PLAN, *small, lengths, output, "--breakdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a training step of 8 x (16 + 8) tokens, float32, 2 devices on ")
    figures = json.loads((tmp_path / "step.json").read_text())
    assert figures["roofline_seconds"] == pytest.approx(
        figures["share_of_roofline"] * figures["step_seconds"]
    )
    assert 0 < figures["share_of_roofline"] < 1 and figures["peak_bytes"] > 1e8
    parts = {tuple(name.rsplit(" ", 1)): s for name, s in figures["part_seconds"].items()}
    for part in ("router", "dispatch and combine", "experts", "attention", "loss"):
        assert parts[part, "forward"] > 0 and parts[part, "backward"] > 0, part
    assert parts["optimizer", "forward"] > 0 and parts["collectives", "forward"] > 0
    shown = dict(re.split(r"  +", line)[:2] for line in lines if "  " in line)
    assert float(shown["optimizer"]) == pytest.approx(
        1e3 * parts["optimizer", "forward"], rel=0.05, abs=0.06
    )


PEER = """#!{python}
import json, sys
print(json.dumps({{"versions": {{"other": "1.2"}}, "parameters": 7}}), flush=True)
for line in sys.stdin:
    print(json.dumps({{"peak_bytes": 5e8}}), flush=True)
"""


@pytest.mark.parametrize("name, what", [("train", "step"), ("decode", "batch")])
def test_a_peer_is_timed_in_turn(name, what, tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text(PEER.format(python=sys.executable))
    python.chmod(0o755)
    main_module.main(
        [
            *("bench", name, FILES[0], PLAN, *SMALL_MODEL, "--against=hf"),
            *(f"--gin.peer.python='{python}'", f"--gin.bench_{name}.rounds=2"),
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
            f"--gin.bench_{name}.output_path='{tmp_path}/found.json'",
        ]
    )
    output = capsys.readouterr().out
    assert "8 x (16 + 8) tokens, float32, 1 device" in output
    assert "in turn with other 1.2:\n" in output
    figures = json.loads((tmp_path / "found.json").read_text())
    ratio = figures["peer_step_seconds"] / figures[f"{what}_seconds"]
    assert figures["times_as_fast_as_peer"] == pytest.approx(ratio)
    tokens = figures["tokens_per_second"] * figures[f"{what}_seconds"]
    assert tokens == pytest.approx({"train": 8 * 24, "decode": 8 * 8}[name])
    assert figures["peer_peak_bytes"] == 5e8 and figures["versions"]["other"] == "1.2"


def test_each_row_of_the_float32_parts_has_that_part_in_bfloat16():
    """Each changes the logits of one model, and leaves it as it was."""
    model = tiny_model(4, dtype="bfloat16")
    features, seen = random_features(batch=2), {}

    def logits():
        with collect():
            return compiled(model)(features).numpy()

    whole = logits()
    for name, is_rounded in _variants(model):
        with is_rounded:
            seen[name] = logits()
        np.testing.assert_array_equal(logits(), whole)
    assert len(seen) == 4
    for name, found in seen.items():
        assert (found == whole).all() == (name == "none of these"), name
        assert np.abs(found - whole).mean() < 0.05 * np.abs(whole).mean()


def test_the_page_shows_the_commands():
    assert [command[:2] for command in COMMANDS] == [
        ["tasks", "local_text_span_corruption"],
        ["bench", "input"],
    ]


def test_the_commands_of_the_page_run_and_print_what_it_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "held_out"):
        (tmp_path / name).mkdir()
        lines = "\n".join(json.dumps({"text": d.text}) for d in make_documents(300))
        (tmp_path / name / "a.json.gz").write_bytes(gzip.compress(lines.encode()))
    vocabulary, bench = COMMANDS
    main_module.main([re.sub("=8000$", "=120", argument) for argument in vocabulary])
    capsys.readouterr()
    main_module.main([*bench, *SMALL_MODEL, *SHORT, "--gin.VOCAB_SIZE=384"])
    printed = shape_of(capsys.readouterr().out)
    shown = next(block for block in BLOCKS if block.startswith("input: "))
    assert printed == shape_of(shown)


def test_the_page_of_the_layer_shows_what_its_command_prints(capsys):
    blocks, (command,) = page("switch_layer.md")
    main_module.main([*command, "--gin.bench_layer.rounds=2"])
    printed = shape_of(capsys.readouterr().out)
    shown = next(block for block in blocks if block.startswith("model/encoder/"))
    assert printed == shape_of(shown)
