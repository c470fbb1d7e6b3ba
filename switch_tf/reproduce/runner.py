"""Runs experiments: finished runs are skipped, and interrupted runs resume."""

import functools
import importlib
import itertools
import json
from pathlib import Path

import gin

from switch_tf import config, storage
from switch_tf.benches.dtype import seconds_per_layer
from switch_tf.data import registry
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.reproduce.display import Display, duration
from switch_tf.reproduce.experiment import Experiment, Runs
from switch_tf.reproduce.report import Report
from switch_tf.reproduce.training_run import TrainingRun


def run(experiment: Experiment, folder: Path) -> Report:
    """Runs the experiment's unfinished runs and makes its report.

    Args:
      experiment: an experiment of the registry.
      folder: the folder for all its runs.

    Returns:
      The report.

    Raises:
      UserError: a task's data are missing, or a run failed.
      Interruption: a run was interrupted; later ones are not started. The same call resumes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"DTYPE": _faster_dtype(folder / "settings.json")} if experiment.times_dtype else {}
    runs = experiment.runs(folder, shared)
    of_seeds = itertools.zip_longest(*runs.values())
    in_order = list(filter(None, itertools.chain.from_iterable(of_seeds)))
    display = Display(in_order)
    display.plan()
    _prepare_data(runs)
    for each in in_order:
        if each.is_done():
            continue
        try:
            each.run(functools.partial(next, display.watch(each)))
        except BaseException:
            display.leave()
            raise
        display.end(_took(each))
    print(f"all runs together: {duration(sum(map(_seconds, in_order)))}", flush=True)
    return _make_report(experiment, runs)


def report(experiment: Experiment, folder: Path) -> Report:
    """Makes the report of an experiment whose runs are done.

    Args:
      experiment, folder: see `run`.

    Raises:
      UserError: a run is not done.
    """
    runs = experiment.runs(folder, {})
    every = list(itertools.chain(*runs.values()))
    left = [run.name for run in every if not run.is_done()]
    if left:
        raise UserError(
            f"{len(left)} of {len(every)} runs in {folder} are not done, such as {left[0]}: run "
            "them first, by `switch-tf reproduce run`, with the same name and flags"
        )
    return _make_report(experiment, runs)


def _make_report(experiment: Experiment, runs: Runs) -> Report:
    module = importlib.import_module(f"switch_tf.reproduce.{experiment.report}")
    return module.make(experiment, runs)


def _seconds(run: TrainingRun) -> float:
    """How long a run's processes took together."""
    return sum(sitting["seconds"] for sitting in run.sittings())


def _took(run: TrainingRun) -> str:
    """A line on a finished run: how long it took, and what slowed it."""
    sittings = run.sittings()
    text = f"{run.name}: done in {duration(_seconds(run))}"
    if len(sittings) > 1:
        text += f", in {len(sittings)} sittings"
    if slowed := run.slowed_by():
        text += f"; {slowed}, so tokens/s are too low"
    return text


def _prepare_data(runs: Runs) -> None:
    """Prepares or checks each task's data once, before the first run needs it."""
    prepared = set()
    for first, *_ in runs.values():
        config.load(first.gin_files, first.binding_strings)
        data = TaskData()
        if data.mixture_or_task_name not in prepared:
            registry.prepare(data.provider(), data.use_cached)
            prepared.add(data.mixture_or_task_name)
    gin.clear_config()


def _faster_dtype(path: Path) -> str:
    """The faster dtype, timed on the first call and stored, so that resumed runs keep it."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["dtype"]
    seconds = seconds_per_layer()
    dtype = min(seconds, key=seconds.get)
    times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    print(f"a small layer takes {times}: using DTYPE='{dtype}'", flush=True)
    storage.write_json(path, {"dtype": dtype, "seconds_per_layer": seconds})
    return dtype
