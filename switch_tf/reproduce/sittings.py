"""Trains runs in processes of their own, one after another or several at a time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from switch_tf import storage
from switch_tf.errors import Interruption, UserError
from switch_tf.reproduce.machine_load import LoadMeter
from switch_tf.reproduce.result import as_json
from switch_tf.reproduce.training_run import TrainingRun

_RERUN = "; rerun the command to resume"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Status of a run that a signal interrupted -> the signal's number.
_INTERRUPTED = {Interruption(number).status: number for number in (signal.SIGINT, signal.SIGTERM)}
# Seconds between two looks at the processes.
_PAUSE = 1.0
# Binds itself to the core of its first argument, and becomes the command of the others.
_BIND = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def train(
    runs: Sequence[TrainingRun],
    at_once: int = 1,
    watch: Callable[[Sequence[TrainingRun]], None] = lambda active: None,
    ended: Callable[[TrainingRun], None] = lambda run: None,
) -> None:
    """Trains runs up to their last step, in order, each after those whose checkpoints it needs.

    SIGINT, SIGTERM and SIGHUP are forwarded: the runs save a checkpoint, and this raises. After the
    first run that fails, no further one starts, and those that train go on to their end.

    Args:
      runs: unfinished runs, each behind those of them that it needs.
      at_once: how many train at a time; more than one have a core each.
      watch: called every second with the runs that train.
      ended: called with each run that is done.

    Raises:
      UserError: a run failed, and the message says where its output is; or its folder holds a run
        with other settings.
      Interruption: this process or a run's was interrupted.
    """
    left, active, failures = list(runs), {}, []
    with _forwarding(active) as received:
        while active or (left and not received and not failures):
            while len(active) < at_once and not received and not failures:
                run = _ready(left, active)
                if run is None:
                    break
                left.remove(run)
                active[id(run)] = Sitting(run, active, at_once)
            if received:
                # The signal may have come before the last one was known. Those that have it are
                # saving; a second one would stop them at once.
                _interrupt(active, received[0], again=False)
            watch([sitting.run for sitting in active.values()])
            for sitting in active.values():
                sitting.has_ended(_PAUSE / len(active))
            failures += _end(active, received, watch, ended)
    # An interruption says how to resume, whatever failed besides.
    interrupted = [f for f in failures if isinstance(f, Interruption)]
    if interrupted:
        every = "; ".join(interruption.kept for interruption in interrupted)
        mend = _RERUN if _RERUN in every else ""
        raise Interruption(interrupted[0].number, every.replace(_RERUN, "") + mend)
    if failures:
        raise failures[0]
    if received:
        raise Interruption(received[0], "rerun the command to resume")


def _end(active: dict[int, Sitting], received: Sequence[int], watch, ended) -> list[Exception]:
    """Ends the sittings whose processes have ended; returns their failures."""
    failures = []
    for key in [key for key, sitting in active.items() if sitting.has_ended()]:
        watch([active[key].run])
        sitting = active.pop(key)
        try:
            sitting.end(received[0] if received else None)
            ended(sitting.run)
        except (UserError, Interruption) as error:
            failures.append(error)
    return failures


def _interrupt(active: dict[int, Sitting], number: int, again: bool = True) -> None:
    for sitting in list(active.values()):
        if again or not sitting.is_interrupted:
            sitting.interrupt(number)


def _ready(left: Sequence[TrainingRun], active: dict[int, Sitting]) -> TrainingRun | None:
    """The first run that needs none of those that are not done."""
    not_done = {run.model_dir for run in (*left, *(sitting.run for sitting in active.values()))}
    for run in left:
        if not any(needed.model_dir in not_done for needed in run.needs):
            return run
    return None


class Sitting:
    """A process that trains a run, from its start on.

    Args:
      run: the run.
      active: all sittings, by a key of theirs; the others train beside this one.
      at_once: how many may train at a time.

    Attributes:
      run: the run.
      is_interrupted: whether a signal was handed to its process.

    Raises:
      UserError: the run's folder holds a run with other settings.
    """

    def __init__(self, run: TrainingRun, active: dict[int, Sitting], at_once: int):
        run.check_same_settings()
        run.model_dir.mkdir(parents=True, exist_ok=True)
        storage.write_json(run.paths.settings, as_json(run.settings))
        self.run = run
        self.is_interrupted = False
        self._at_once = at_once
        self._core = _free_core(active.values()) if at_once > 1 else None
        with open(run.paths.log, "a", encoding="utf-8") as output:
            output.write(f"$ {' '.join(run.command)}\n")
            output.flush()
            self._meter = LoadMeter(lambda: [s.process for s in active.values() if s.is_alive()])
            self._started = time.monotonic()
            self._child = _start(run.command, output, self._core)

    @property
    def process(self) -> int:
        """The number of its process."""
        return self._child.pid

    @property
    def core(self) -> int | None:
        """The core that it has for itself; None if it has all."""
        return self._core

    def is_alive(self) -> bool:
        """Whether its process has not been waited for."""
        return self._child.returncode is None

    def has_ended(self, timeout: float = 0.0) -> bool:
        """Whether its process has ended, for which this waits up to `timeout` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout)
        return not self.is_alive()

    def interrupt(self, number: int) -> None:
        """Hands a signal to its process, if it is alive."""
        self.is_interrupted = True
        if self._child.poll() is None:
            # Closing the terminal should also leave a saved run behind.
            os.kill(self.process, signal.SIGTERM if number == signal.SIGHUP else number)

    def end(self, forwarded: int | None) -> None:
        """Keeps how long it took and, if the run is done, its result.

        Args:
          forwarded: the first signal that was handed to it, if any.

        Raises:
          UserError: it failed.
          Interruption: it was interrupted.
        """
        run, log, status = self.run, self.run.paths.log, self._child.returncode
        self._keep_sitting()
        number = forwarded or _INTERRUPTED.get(status)
        if number is not None:
            kept = _told(log, "interrupted by [A-Z]+: ")
            ended = f"ended with status {status}, its output in {log}; rerun the command to resume"
            raise Interruption(number, f"{run.name}: {kept or ended}")
        error = _told(log, "error: ")
        if status and (step := re.match(r"loss is -?(?:nan|inf) at step (\d+)", error)):
            run.keep(diverged_at=int(step[1]))
        elif status or not run.is_trained():
            raise UserError(
                f"{run.name} failed with status {status}: {error or _last_line(log)}; all "
                f"output is in {log}; fix the cause and rerun the command to resume"
            )
        else:
            run.keep()

    def _keep_sitting(self) -> None:
        load = self._meter.read()
        found = {
            "seconds": round(time.monotonic() - self._started, 1),
            "others": round(load.others, 3),
            "cores": load.cores,
            "at_once": self._at_once,
        }
        lines = [json.dumps(sitting) + "\n" for sitting in (*self.run.sittings(), found)]
        storage.write_atomically(self.run.paths.sittings, "".join(lines))


def _free_core(sittings: Sequence[Sitting]) -> int:
    taken = [sitting.core for sitting in sittings]
    return min(os.sched_getaffinity(0), key=lambda core: (taken.count(core), core))


def _start(command: Sequence[str], output, core: int | None) -> subprocess.Popen:
    """Starts a process, bound to one core if one is given."""
    if core is not None:
        command = [sys.executable, "-c", _BIND, str(core), *command]
    # Its own session, or it would get a terminal's SIGINT twice, which means "stop at once".
    return subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )


@contextlib.contextmanager
def _forwarding(active: dict[int, Sitting]) -> Iterator[list[int]]:
    """Hands signals to all sittings, ends those left in the end; gives the signals received."""
    received = []

    def hand_on(number, _):
        if active and not received:
            name = signal.Signals(number).name
            told = f"\n{name}: ends after this step of each run, and saves; again to end unsaved\n"
            # Not print, which may be what the signal has interrupted.
            os.write(2, told.encode())
        received.append(number)
        _interrupt(active, number)

    before = {number: signal.signal(number, hand_on) for number in _SIGNALS}
    try:
        yield received
    finally:
        # Nothing is left unless something else went wrong.
        _interrupt(active, signal.SIGTERM, again=False)
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(log: str | Path) -> str:
    """The last line of a process that ended without an error of ours, such as a traceback's."""
    lines = storage.read_text(log).rpartition("\n$ ")[2].splitlines()[1:]
    return next((f"'{line}'" for line in reversed(lines) if line.strip()), "it printed no error")


def _told(log: str | Path, pattern: str) -> str:
    """What the last process said behind `switch-tf: ` and a pattern, on its last such line."""
    last = storage.read_text(log).rpartition("\n$ ")[2]
    return (re.findall(rf"^switch-tf: {pattern}(.*)", last, re.MULTILINE) or [""])[-1]
