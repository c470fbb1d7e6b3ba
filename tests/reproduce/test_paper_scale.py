import itertools
import re
import shlex

import gin
import pytest

from switch_tf import config
from switch_tf.commands import main as main_module
from switch_tf.errors import UserError
from switch_tf.reproduce import paper_scale
from switch_tf.reproduce.experiments.paper_arms import ARMS
from switch_tf.reproduce.paper_slices import Costs
from switch_tf.reproduce.registry import EXPERIMENTS

COSTS = Costs()


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def commands(folder):
    """The flags of each `switch-tf train` of commands.sh, with its variables in place."""
    text = (folder / "commands.sh").read_text().replace("\\\n", "")
    text = text.replace("$ROOT", "/paper").replace("$VOCABULARY", "/t5.model")
    found = re.findall(r"^switch-tf train (.*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in found]


def given(flags, name):
    return [f.partition("=")[2] for f in flags if f.startswith(f"--{name}=")]


def test_each_table_of_the_paper_has_its_runs():
    # The paper's tables have the tasks of the ones whose data users bring.
    mini = {n for n, e in EXPERIMENTS.items() if re.match("table|figure", n) and not e.brings_data}
    assert mini <= ARMS.keys()
    assert {f"table{n}" for n in range(1, 12)} <= ARMS.keys()


@pytest.mark.parametrize("name", ARMS)
def test_every_command_reads_and_checks_its_file_and_finds_what_it_starts_from(name, tmp_path):
    *files, last = paper_scale.write(name, tmp_path, COSTS)
    assert last == "commands.sh" and sorted(files) == sorted(p.name for p in tmp_path.glob("*.gin"))
    made = []
    for flags in commands(tmp_path):
        (file,), (model_dir,) = given(flags, "gin_file"), given(flags, "gin.MODEL_DIR")
        bindings = [flag.removeprefix("--gin.") for flag in flags if flag.startswith("--gin.")]
        settings = config.precheck([str(tmp_path / file)], bindings)
        assert settings["MODEL_DIR"] == model_dir.strip("'")
        for needed in (given(flags, f"gin.{p}") for p in paper_scale._PLACES):
            assert set(needed) <= set(made)
        made.append(model_dir)
    assert len(made) == len(set(made)) == len(files)


def test_an_arm_that_experiments_share_has_one_folder_and_one_file(tmp_path):
    found = {}
    for name in ARMS:
        for run in paper_scale.runs(name):
            same = found.setdefault(run.model_dir, run)
            assert (run.gin_files, run.bindings) == (same.gin_files, same.bindings)
    assert len(found) < sum(len(paper_scale.runs(name)) for name in ARMS)


@pytest.mark.parametrize(
    "name, file, told",
    [
        ("table1", "switch_base_128_experts_pretrain", "7,"),
        ("table9", "switch_xxl_pretrain", "201,"),
        ("table9", "switch_large_500k_steps_pretrain", ""),
        ("figure12", "switch_base_4_experts_pretrain", ""),
        ("table10", "experts_in_ffn_and_attention_bfloat16_pretrain", ""),
    ],
)
def test_a_run_can_be_planned(name, file, told, tmp_path, capsys):
    main_module.main(["reproduce", "run", name, "--scale=paper", f"--output_dir={tmp_path}"])
    vocabulary = tmp_path / "t5.model"
    vocabulary.write_text("not read by a plan")
    flags = [f"--gin.MODEL_DIR='{tmp_path}'", f"--gin.VOCABULARY_PATH='{vocabulary}'"]
    path = tmp_path / f"{file}.gin"
    slice = re.search(r"for (v3-\d+)\. ", path.read_text())[1]
    main_module.main(["plan", f"--gin_file={path}", f"--slice={slice}", *flags])
    printed = capsys.readouterr().out
    assert re.search(rf"parameters: {told}", printed) and f"{slice}: " in printed
    assert "it fits: " in printed


def test_what_has_no_runs_of_that_size_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="^'quickstart' has no runs at --scale=paper; these have: "):
        paper_scale.runs("quickstart")
    with pytest.raises(SystemExit):
        main_module.main(["reproduce", "run", "quickstart", "--scale=paper"])
    assert "--scale=paper; these have: table1, " in capsys.readouterr().err


def test_models_have_the_sizes_of_the_paper():
    steps = {
        run.model_dir.parts[1]: run.bindings["TRAIN_STEPS"] for run in paper_scale.runs("table9")
    }
    assert set(steps.values()) == {500_000}
    cores = {
        run.model_dir.parts[1]: run.bindings["MESH_SHAPE"] for run in paper_scale.runs("table9")
    }
    assert cores["switch_c"] == "batch:2048" and cores["switch_xxl"] == "batch:64,model:8"
    seeds = [run.bindings["SEED"] for run in paper_scale.runs("table3")]
    assert seeds == [*itertools.chain(range(3), range(3))]
