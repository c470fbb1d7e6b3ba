"""Runs experiments: finished runs are skipped, and interrupted runs resume."""

import importlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from switch_tf import config
from switch_tf.data import registry
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.reproduce import html_page, sittings
from switch_tf.reproduce.display import Display, duration
from switch_tf.reproduce.experiment import Experiment, Results, Runs, in_order, with_needed
from switch_tf.reproduce.report import Report
from switch_tf.reproduce.training_run import TrainingRun


def run(experiment: Experiment, folder: Path, results_dir: Path) -> Report:
    """Runs the experiment's unfinished runs and makes its report.

    Args:
      experiment: an experiment of the registry.
      folder: the folder for all its runs.
      results_dir: the folder that keeps their results.

    Returns:
      The report.

    Raises:
      UserError: a task's data are missing, a run failed, or a folder is of another run.
      Interruption: a run was interrupted; later ones are not started. The same call resumes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = experiment.runs(folder, results_dir / "runs")
    own = in_order(runs)
    left = _left(own)
    at_once = experiment.at_once(len(os.sched_getaffinity(0)))
    places = {run.model_dir for run in own}
    needed = [run for run in left if run.model_dir not in places]
    display = Display([*needed, *own], at_once)
    display.plan()
    _prepare_data(left)
    started = time.monotonic()
    try:
        sittings.train(left, at_once, display.watch, lambda run: display.end(_took(run)))
    except BaseException:
        display.leave()
        raise
    together = f"all runs together: {duration(sum(map(_seconds, own)))}"
    if at_once > 1:
        together += f" of one core each; this time {duration(time.monotonic() - started)}"
    print(together, flush=True)
    return _make_report(experiment, _results(runs))


def run_one(experiment: Experiment, folder: Path, results_dir: Path, number: int) -> None:
    """Trains one run of the experiment, unless it is done; for a job of a scheduler.

    Args:
      number: the run's number as `schedulers.script` counts them.
      experiment, folder, results_dir: see `run`.

    Raises:
      UserError: there is no such run, or it failed, or those that it needs are not there.
      Interruption: it was interrupted; the same call resumes.
    """
    found = with_needed(in_order(experiment.runs(folder, results_dir / "runs")))
    if not 0 <= number < len(found):
        raise UserError(f"--only={number}: '{experiment.name}' has the runs 0 to {len(found) - 1}")
    each = found[number]
    if each.is_done():
        print(f"{each.name}: done before")
        return
    display = Display([each])
    display.plan()
    _prepare_data([each])
    sittings.train([each], 1, display.watch, lambda run: display.end(_took(run)))


def report(experiment: Experiment, folder: Path, results_dir: Path) -> Report:
    """Makes the report of an experiment from its results.

    Args:
      experiment, folder, results_dir: see `run`.

    Raises:
      UserError: a run is not done and, where experiments share runs, none is.
    """
    return _make_report(experiment, finished(experiment, folder, results_dir))


def finished(experiment: Experiment, folder: Path, results_dir: Path) -> Results:
    """The results of the runs that are done.

    Args:
      experiment, folder, results_dir: see `run`.

    Raises:
      UserError: see `report`.
    """
    runs = experiment.runs(folder, results_dir / "runs")
    own = in_order(runs)
    left = [run.name for run in own if not run.is_done()]
    if left and (len(left) == len(own) or not experiment.is_shared):
        raise UserError(
            f"{len(left)} of {len(own)} runs in {folder} are not done, such as {left[0]}: run "
            "them first, by `switch-tf reproduce run`, with the same name and flags"
        )
    return _results(runs)


def write_html(
    experiments: Sequence[Experiment], folder: Path, results_dir: Path, path: Path
) -> int:
    """Writes all results on one page, whose plots can be hovered.

    Args:
      experiments: those that have results are on the page.
      folder, results_dir: see `run`.
      path: the page.

    Returns:
      The number of experiments on it.

    Raises:
      UserError: none has results.
    """
    found = []
    for experiment in experiments:
        if not experiment.is_shared or not _has_results(experiment, folder, results_dir):
            continue
        results = finished(experiment, folder, results_dir)
        found.append((experiment, results, _make_report(experiment, results)))
    if not found:
        raise UserError(f"{results_dir} has no results: run an experiment first")
    html_page.write(path, found)
    return len(found)


def _has_results(experiment: Experiment, folder: Path, results_dir: Path) -> bool:
    return any(run.is_done() for run in in_order(experiment.runs(folder, results_dir / "runs")))


def _left(runs: Iterable[TrainingRun]) -> list[TrainingRun]:
    """The runs to train: those not done, each behind those whose checkpoints are not there."""

    def has_no_checkpoint(run: TrainingRun) -> bool:
        return not (run.is_trained() and run.paths.steps())

    return with_needed((run for run in runs if not run.is_done()), has_no_checkpoint)


def _results(runs: Runs) -> Results:
    return {arm: [run.result() for run in found if run.is_done()] for arm, found in runs.items()}


def _make_report(experiment: Experiment, results: Results) -> Report:
    module = importlib.import_module(f"switch_tf.reproduce.{experiment.report}")
    return module.make(experiment, results)


def _seconds(run: TrainingRun) -> float:
    """How long a run's processes took together."""
    return sum(sitting["seconds"] for sitting in run.result().sittings)


def _took(run: TrainingRun) -> str:
    """A line on a finished run: how long it took, and what slowed it."""
    result = run.result()
    ended = "done" if result.diverged_at is None else f"diverged at step {result.diverged_at:,}"
    text = f"{run.name}: {ended} in {duration(_seconds(run))}"
    if len(result.sittings) > 1:
        text += f", in {len(result.sittings)} sittings"
    if slowed := result.slowed_by():
        text += f"; {slowed}, so tokens/s are too low"
    return text


def _prepare_data(runs: Sequence[TrainingRun]) -> None:
    """Prepares or checks each task's data once, before the first run needs it."""
    prepared = set()
    for run in runs:
        # One that starts from another takes the vocabulary from its checkpoint.
        starts = "INITIAL_CHECKPOINT_PATH" not in run.bindings
        if (key := (run.settings["MIXTURE_OR_TASK_NAME"], starts)) not in prepared:
            prepared.add(key)
            with config.loaded(run.gin_files, run.binding_strings):
                data = TaskData()
                registry.prepare(data.provider(), data.use_cached, starts)
