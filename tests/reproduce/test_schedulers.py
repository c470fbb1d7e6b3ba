import re
import shutil
import subprocess

import pytest

from switch_tf.commands import main as main_module
from switch_tf.errors import UserError
from switch_tf.reproduce import schedulers
from switch_tf.reproduce.experiment import in_order, with_needed
from switch_tf.reproduce.registry import EXPERIMENTS

TABLE8 = EXPERIMENTS["table8"]


def stages(tmp_path):
    """Numbers of the runs, by what they need: pre-training, fine-tuning, distilling."""
    runs = with_needed(in_order(TABLE8.runs(tmp_path, tmp_path / "runs")))
    kinds = [run.model_dir.name.split("_")[0] for run in runs]
    return [
        [number for number, found in enumerate(kinds) if found == kind]
        for kind in ("pretrain", "finetune", "distill")
    ]


@pytest.mark.parametrize("scheduler", schedulers.SCHEDULERS)
def test_the_script_is_valid_and_says_how_to_collect(scheduler, tmp_path):
    text = schedulers.script(TABLE8, tmp_path / "a b", tmp_path, scheduler)
    subprocess.run([shutil.which("bash"), "-n"], input=text, text=True, check=True)
    assert f"switch-tf reproduce report table8 '--output_dir={tmp_path}/a b'" in text


def test_slurm_gets_an_array_for_each_stage_which_waits_for_the_one_before(tmp_path):
    text = schedulers.script(TABLE8, tmp_path, tmp_path, "slurm")
    arrays = [list(map(int, found.split(","))) for found in re.findall(r"--array=([\d,]+)", text)]
    assert arrays == stages(tmp_path)
    assert re.findall(r"--dependency=(\S+)", text) == ["afterok:$stage0", "afterok:$stage1"]
    assert "--only=$SLURM_ARRAY_TASK_ID" in text


def test_xpk_gets_a_workload_for_each_run_behind_those_that_it_needs(tmp_path):
    text = schedulers.script(TABLE8, tmp_path, tmp_path, "xpk")
    lines = [line for line in text.splitlines() if line.startswith("xpk ")]
    started = []
    for line in lines:
        if found := re.search(r"--wait-for-job-completion=table8-(\d+)", line):
            assert int(found[1]) in started
        else:
            started.append(int(re.search(r"--only=(\d+)", line)[1]))
    assert started == sum(stages(tmp_path), [])


def test_what_is_made_for_one_machine_is_refused(tmp_path):
    with pytest.raises(UserError, match="^'quickstart' is made for one machine"):
        schedulers.script(EXPERIMENTS["quickstart"], tmp_path, tmp_path, "slurm")


def test_the_command_prints_the_script_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main_module.main(["reproduce", "run", "table3", "--scheduler=slurm"])
    assert "--array=0,1,2,3,4,5,6,7,8,9 " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
