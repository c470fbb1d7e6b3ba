"""One run of an experiment: `switch-tf train` in a process of its own, run at most once.

Its gin files and bindings are those that a user would pass. A second call skips a finished run and
resumes an interrupted one.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from switch_tf import config, storage
from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.errors import Interruption, UserError
from switch_tf.reproduce.machine_load import Load, LoadMeter

# Settings that may differ when a run resumes: its length, what is written when, and, if the folder
# was moved, its path. Bindings to these macros follow them.
_MAY_CHANGE = (
    *("TRAIN_STEPS", "CHECKPOINT_PERIOD", "EVAL_PERIOD", "MODEL_DIR", "INITIAL_CHECKPOINT_PATH"),
    *("LOG_PERIOD", "ROUTING_PERIOD", "MetricsWriter.log_period", "MetricsWriter.routing_period"),
    *("train.train_steps", "train.checkpoint_period", "Evaluation.period"),
    *("train.model_dir", "train.initial_checkpoint_path"),
)
# Status of a run that a signal interrupted -> the signal's number.
_INTERRUPTED = {Interruption(number).status: number for number in (signal.SIGINT, signal.SIGTERM)}


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run of `switch-tf train`.

    Attributes:
      name: the run's name in messages.
      model_dir: its MODEL_DIR, a local one.
      gin_files: values of `--gin_file`.
      bindings: macro or `configurable.parameter` -> value, for `--gin.NAME`.
      minutes: about how long it takes on two idle cores, to estimate the time left.
    """

    name: str
    model_dir: Path
    gin_files: Sequence[str]
    bindings: Mapping[str, Any]
    minutes: float = 1.0

    @property
    def binding_strings(self) -> list[str]:
        """`NAME=value` for each binding, including MODEL_DIR."""
        bindings = dict(self.bindings) | {"MODEL_DIR": str(self.model_dir)}
        return [f"{name}={value!r}" for name, value in bindings.items()]

    # Read once: a live display asks for it every second, on the machine that is measured.
    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of its gin files and flags, from `config.precheck`."""
        return config.precheck(self.gin_files, self.binding_strings)

    @property
    def train_steps(self) -> int:
        """The step at which training ends."""
        return self.settings["TRAIN_STEPS"]

    def records(self, kind: str) -> list[dict]:
        """The records logged so far, in order.

        Args:
          kind: "train" for steps, or "evaluation".
        """
        # Imported here because experiments are listed before TensorFlow starts.
        from switch_tf.metrics.writer import read_metrics

        return [r for r in read_metrics(str(self.model_dir)) if r["kind"] == kind]

    def facts(self) -> dict:
        """The contents of `run.json`: parameters, FLOPs, unigram entropy, mesh, dtype."""
        return json.loads(storage.read_text(self._dir.facts))

    def is_done(self) -> bool:
        """Whether the last step has been taken and evaluated."""
        steps = (record["step"] for record in self.records("evaluation"))
        return max(steps, default=0) >= self.train_steps

    @property
    def metrics_path(self) -> str:
        """The path of its log of metrics."""
        return self._dir.metrics

    def sittings(self) -> list[dict]:
        """What each of its processes took: "seconds", and the "cores" that "others" took."""
        path = self._dir.sittings
        lines = storage.read_text(path).splitlines() if storage.exists(path) else ()
        return list(map(json.loads, lines))

    def slowed_by(self) -> Load | None:
        """The largest load of others in one of its sittings; None if none of them is notable."""
        loads = [Load(sitting["others"], sitting["cores"]) for sitting in self.sittings()]
        return max(filter(Load.is_notable, loads), key=lambda load: load.share, default=None)

    def run(self, watch: Callable[[], None] = lambda: None) -> None:
        """Trains up to the last step, unless that has been done.

        SIGINT, SIGTERM and SIGHUP are forwarded: the run saves a checkpoint, and this raises.

        Args:
          watch: called every second while it trains.

        Raises:
          UserError: the run failed, and the message says where its output is; or its folder holds a
            run with other settings.
          Interruption: this process or the run's was interrupted.
        """
        self._check_same_settings()
        if self.is_done():
            return
        self.model_dir.mkdir(parents=True, exist_ok=True)
        storage.write_json(self._dir.settings, _as_json(self.settings))
        command = [sys.executable, "-m", "switch_tf.commands.main", "train"]
        command += [f"--gin_file={name}" for name in self.gin_files]
        command += [f"--gin.{binding}" for binding in self.binding_strings]
        log = self._dir.log
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"$ {' '.join(command)}\n")
            output.flush()
            started, meter = time.monotonic(), LoadMeter()
            status, forwarded = _run(command, output, watch)
        self._sat(time.monotonic() - started, meter.read())
        number = forwarded or _INTERRUPTED.get(status)
        if number is not None:
            kept = _told(log, "interrupted by [A-Z]+: ")
            ended = f"ended with status {status}, its output in {log}; rerun the command to resume"
            raise Interruption(number, f"{self.name}: {kept or ended}")
        if status or not self.is_done():
            raise UserError(
                f"{self.name} failed with status {status}: "
                f"{_told(log, 'error: ') or 'it printed no error'}; all output is in {log}; "
                "fix the cause and rerun the command to resume"
            )

    def _sat(self, seconds: float, load: Load) -> None:
        found = {"seconds": seconds, "others": load.others, "cores": load.cores}
        lines = [json.dumps(sitting) + "\n" for sitting in (*self.sittings(), found)]
        storage.write_atomically(self._dir.sittings, "".join(lines))

    @property
    def _dir(self) -> ModelDir:
        return ModelDir(str(self.model_dir))

    def _check_same_settings(self) -> None:
        """Rejects a folder whose run had other settings; a new length or log period is allowed."""
        if not storage.exists(self._dir.settings):
            return
        then = json.loads(storage.read_text(self._dir.settings))
        now = _as_json(self.settings)
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name) and name not in _MAY_CHANGE:
                raise UserError(
                    f"{self.name}: {self.model_dir} was made with {name}={then.get(name)}, but "
                    f"this run has {now.get(name)}: give another --output_dir, or remove that "
                    "folder"
                )


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=repr))


def _told(log: str, pattern: str) -> str:
    """What the last process said behind `switch-tf: ` and a pattern, on its last such line."""
    last = storage.read_text(log).rpartition("\n$ ")[2]
    return (re.findall(rf"^switch-tf: {pattern}(.*)", last, re.MULTILINE) or [""])[-1]


def _run(
    command: Sequence[str], output, watch: Callable[[], None] = lambda: None
) -> tuple[int, int | None]:
    """The exit status of a child process, and the number of the first signal forwarded, or None."""
    received = []
    # Its own session, or it would get a terminal's SIGINT twice, which means "stop at once".
    # Its log is read as UTF-8, whatever this terminal shows.
    env = os.environ | {"PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=env
    )

    def hand_on(number, _):
        received.append(number)
        if child.poll() is None:
            # Closing the terminal should also leave a saved run behind.
            os.kill(child.pid, signal.SIGTERM if number == signal.SIGHUP else number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, hand_on) for number in numbers}
    status = None
    try:
        while status is None:
            watch()
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = child.wait(timeout=1.0)
        watch()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status, received[0] if received else None
