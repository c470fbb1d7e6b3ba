"""Writes the paper's own runs as gin files and commands, for machines that can run them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from switch_tf import storage
from switch_tf.errors import UserError
from switch_tf.reproduce.experiment import Arm
from switch_tf.reproduce.experiments.paper_arms import ARMS
from switch_tf.reproduce.training_run import TrainingRun, gin_text

if TYPE_CHECKING:
    # It imports TensorFlow, which the commands start later.
    from switch_tf.reproduce.paper_slices import Cost, Costs

_FILE = """\
# The paper's {experiment}: {name}.
# Written by `switch-tf reproduce run {experiment} --scale=paper`, for {slice}. There a step takes
# {seconds:.3g} s, and the run {hours:,.0f} h, says the planner; nobody has run it.
# Must be set: MODEL_DIR, VOCABULARY_PATH (a copy of T5's){others}.
{includes}

{bindings}
"""
_COMMANDS = """\
#!/usr/bin/env bash
# The runs of the paper's {experiment}, in an order in which each finds the checkpoints that it
# needs. ROOT is a folder for all runs, such as gs://BUCKET/paper; VOCABULARY is a copy of T5's
# (mT5's for mt5_base and mswitch_base). The same command resumes a run. Each file says what slice
# it is for; one of several machines needs the command on all, as scripts/tpu gives it
# (docs/reproduce_on_tpu.md).
set -euo pipefail
cd "$(dirname "$0")"
: "${{ROOT:?set ROOT}}" "${{VOCABULARY:?set VOCABULARY}}"

{commands}
"""
# Settings of a run's place, which are flags of its command instead of lines of its file.
_PLACES = ("INITIAL_CHECKPOINT_PATH", "TEACHER_PATH")


def runs(experiment: str) -> list[TrainingRun]:
    """The paper's runs of an experiment; their folders are below `ROOT`.

    Args:
      experiment: its name.

    Raises:
      UserError: the experiment has no runs of the paper's size.
    """
    if experiment not in ARMS:
        raise UserError(
            f"'{experiment}' has no runs at --scale=paper; these have: {', '.join(ARMS)}"
        )
    root = Path("ROOT")
    return [run for arm in _once(ARMS[experiment]) for run in arm.runs(root, root)]


def write(experiment: str, folder: Path, costs: Costs) -> list[str]:
    """Writes a gin file for each run of an experiment, and commands.sh.

    Args:
      experiment: its name.
      folder: the folder to write to.
      costs: plans the runs.

    Returns:
      The names of the files.

    Raises:
      UserError: the experiment has no runs of the paper's size.
    """
    found = runs(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    for run in found:
        storage.write_atomically(folder / file_name(run), _gin(experiment, costs.of(run)))
    text = _COMMANDS.format(experiment=experiment, commands="\n\n".join(map(_command, found)))
    storage.write_atomically(folder / "commands.sh", text)
    return [*map(file_name, found), "commands.sh"]


def _once(arms: Sequence[Arm]) -> list[Arm]:
    return list({id(arm): arm for arm in arms}.values())


def file_name(run: TrainingRun) -> str:
    """The name of a run's gin file."""
    return re.sub(r"\W+", "_", "_".join(run.model_dir.parts[1:])) + ".gin"


def _gin(experiment: str, cost: Cost) -> str:
    run = cost.run
    places = [name for name in _PLACES if name in run.bindings]
    return _FILE.format(
        name=run.name,
        experiment=experiment,
        slice=cost.estimate.slice.name,
        seconds=cost.seconds,
        hours=cost.hours,
        others="".join(f", {name}" for name in places),
        includes="\n".join(f"include '{name}'" for name in run.gin_files),
        bindings="\n".join(_bindings(run)),
    )


def _bindings(run: TrainingRun) -> Iterator[str]:
    for name, value in run.bindings.items():
        # What another run leaves is a macro, whose value the command gives.
        yield f"{name} = {'%gin.REQUIRED' if name in _PLACES else gin_text(value)}"


def _command(run: TrainingRun) -> str:
    flags = [f"--gin_file={file_name(run)}", _place("MODEL_DIR", str(run.model_dir))]
    flags += [_place(name, run.bindings[name]) for name in _PLACES if name in run.bindings]
    flags.append("--gin.VOCABULARY_PATH=\"'$VOCABULARY'\"")
    return " \\\n  ".join(["switch-tf train", *flags])


def _place(name: str, path: str) -> str:
    return f"--gin.{name}=\"'${path}'\""
