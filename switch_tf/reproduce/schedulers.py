"""Scripts that hand an experiment's runs to a scheduler, each as a job of its own."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from switch_tf.errors import UserError
from switch_tf.reproduce.experiment import Experiment, in_order, with_needed
from switch_tf.reproduce.training_run import TrainingRun

SCHEDULERS = ("slurm", "xpk")
_SLURM = """\
#!/usr/bin/env bash
# {count} runs of {name}, each a job; a job that is preempted resumes when it is queued again.
set -euo pipefail
{jobs}
# Once they are done, on a machine that sees the same folders:
# {collect}
"""
_XPK = """\
#!/usr/bin/env bash
# {count} runs of {name}, each a workload; the folders must be on a volume that all of them mount.
set -euo pipefail
: "${{CLUSTER:?set CLUSTER}}" "${{IMAGE:?set IMAGE}}" "${{DEVICE_TYPE:?set DEVICE_TYPE}}"
{jobs}
# Once they are done: {collect}
"""


def script(experiment: Experiment, folder: Path, results_dir: Path, scheduler: str) -> str:
    """A shell script that queues runs, those that need others' checkpoints behind these.

    Args:
      experiment: the experiment.
      folder: the folder for its runs, which every job sees.
      results_dir: the folder that keeps their results, likewise.
      scheduler: one of `SCHEDULERS`.

    Raises:
      UserError: the experiment is no group of runs of one core each.
    """
    name = experiment.name
    if not experiment.is_shared:
        raise UserError(f"'{name}' is made for one machine: --scheduler is for tables and figures")
    runs = with_needed(in_order(experiment.runs(folder, results_dir / "runs")))
    flags = [f"--output_dir={folder}", f"--results_dir={results_dir}"]
    if experiment.data_dir is not None:
        flags.append(f"--data_dir={experiment.data_dir}")
    command = shlex.join(["switch-tf", "reproduce", "run", name, *flags])
    collect = shlex.join(["switch-tf", "reproduce", "report", name, *flags])
    make, jobs = {"slurm": (_SLURM, _slurm), "xpk": (_XPK, _xpk)}[scheduler]
    lines = jobs(name, _stages(runs), command)
    return make.format(name=name, count=len(runs), jobs="\n".join(lines), collect=collect)


def _stages(runs: Sequence[TrainingRun]) -> list[list[int]]:
    """The numbers of the runs by stage: those of a stage need only runs of earlier ones."""
    stage, number = {}, {}
    for index, run in enumerate(runs):
        needed = [stage[n.model_dir] for n in run.needs if n.model_dir in stage]
        stage[run.model_dir] = 1 + max(needed, default=-1)
        number[run.model_dir] = index
    count = 1 + max(stage.values())
    return [[number[d] for d, s in stage.items() if s == level] for level in range(count)]


def _slurm(name: str, stages: Sequence[Sequence[int]], command: str) -> Iterator[str]:
    for level, indices in enumerate(stages):
        array = ",".join(map(str, indices))
        after = f" --dependency=afterok:$stage{level - 1}" if level else ""
        # Slurm sends SIGTERM two minutes before it kills a job, which then saves its checkpoint.
        yield (
            f"stage{level}=$(sbatch --parsable --job-name={name} --array={array}{after} "
            "--requeue --signal=TERM@120 --cpus-per-task=1 "
            f"--wrap='exec {command} --only=$SLURM_ARRAY_TASK_ID')"
        )


def _xpk(name: str, stages: Sequence[Sequence[int]], command: str) -> Iterator[str]:
    for before, indices in zip(((), *stages), stages, strict=False):
        for index in before:
            yield (f"xpk workload list --cluster=$CLUSTER --wait-for-job-completion={name}-{index}")
        for index in indices:
            yield (
                "xpk workload create --cluster=$CLUSTER --docker-image=$IMAGE "
                f"--device-type=$DEVICE_TYPE --workload={name}-{index} --max-restarts=10 "
                f"--command='{command} --only={index}'"
            )
