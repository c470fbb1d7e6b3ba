"""Shows what an experiment does: its runs, a live line with the time left, each evaluation.

Everything is read off the runs' logs, so it is the same for a run that resumes.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from switch_tf.metrics import figures
from switch_tf.metrics.tables import table
from switch_tf.reproduce.training_run import TrainingRun

# Seconds between two lines where there is no terminal, so that nobody takes it for hanging.
_LINE_EVERY = 8.0


class Display:
    """Shows the runs of an experiment on a terminal or in a file.

    On a terminal the last line is rewritten each second; elsewhere a line is added every eight.

    Args:
      runs: all runs, in running order.
      at_once: how many of them train at a time.
      stream: the output; by default stdout.
      clock: returns the time in seconds.
    """

    def __init__(
        self,
        runs: Sequence[TrainingRun],
        at_once: int = 1,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._runs = list(runs)
        self._at_once = at_once
        self._watched = {}
        self._stream = stream or sys.stdout
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._last_line = -_LINE_EVERY

    def plan(self) -> None:
        """Prints what will run and how long it takes."""
        left = [run for run in self._runs if not run.is_done()]
        total = duration(60 * sum(run.minutes for run in left) / self._at_once)
        beside = f", {self._at_once} at a time" if self._at_once > 1 else ""
        print(
            f"{len(self._runs)} runs{beside}, {len(self._runs) - len(left)} of them done; about "
            f"{total} on idle cores with AVX2, less with AVX512:",
            file=self._stream,
        )
        rows = (
            (f"  {run.name}", f"{run.train_steps:,} steps", duration(60 * run.minutes))
            if run in left
            else (f"  {run.name}", f"{run.train_steps:,} steps", "done")
            for run in self._runs
        )
        print(*table(rows), sep="\n", file=self._stream, flush=True)

    def watch(self, active: Sequence[TrainingRun]) -> None:
        """Prints new evaluations, and rewrites the live line; to be called every second.

        Args:
          active: those of the runs whose processes are alive, or have just ended.
        """
        for run in active:
            if id(run) not in self._watched:
                self._watched[id(run)] = self._texts(run)
        texts = [next(self._watched[id(run)]) for run in active]
        if texts:
            self._live(" | ".join(texts))

    def _texts(self, run: TrainingRun) -> Iterator[str]:
        """Texts on where a run is; prints its evaluations as they come.

        Args:
          run: one of the runs, about to start.
        """
        log, number = _Log(run.paths.metrics), self._runs.index(run) + 1
        heading = f"[{number}/{len(self._runs)}] {run.name}"
        later = sum(other.minutes for other in self._runs[number:] if not other.is_done())
        # A run that resumes writes them again. As text, in which NaN equals itself.
        earlier = set(map(json.dumps, log.new()))
        started, first, last = self._clock(), None, None
        while True:
            for record in log.new():
                is_new = json.dumps(record) not in earlier
                if record["kind"] == "train":
                    if is_new and first is None:
                        first = (self._clock(), record["step"], last["step"] if last else 0)
                    last = record
                elif record["kind"] == "evaluation" and is_new:
                    self._line(self._evaluation(run, record))
            if last is None:
                yield f"{heading}: starting, {self._clock() - started:.0f} s"
            else:
                yield f"{heading}: {self._stage(run, started, first, last, later)}"

    def _evaluation(self, run: TrainingRun, record: dict) -> str:
        found = {k: v for k, v in record.items() if isinstance(v, float)}
        of_run = f"{run.name}, " if self._at_once > 1 else ""
        return f"  {of_run}step {record['step']:,}  {figures.line(record['task'], found)}"

    def end(self, text: str) -> None:
        """Ends the live line of a run with a line that stays."""
        self._line(text)
        self._last_line = -_LINE_EVERY

    def leave(self) -> None:
        """Leaves the live line as it is, so that an error has a line to itself."""
        if self._is_terminal:
            print(file=self._stream, flush=True)

    def _stage(self, run: TrainingRun, started: float, first, last: dict, later: float) -> str:
        """Where a run is that has logged steps, and the time left.

        Args:
          run: the run.
          started: the time at which its process started.
          first: time and step of the first record of this sitting, and the step that it resumed
            from; None if there is none yet.
          last: the record of its last step.
          later: estimated minutes of the runs after it.
        """
        step, steps, now = last["step"], run.train_steps, self._clock()
        if step >= steps:
            return f"step {steps:,}/{steps:,}, evaluating"
        text = f"step {step:,}/{steps:,}, loss {last['loss']:.3f}, "
        text += f"{last['tokens_per_second']:,.0f} tokens/s"
        if first is None or step == first[1]:
            return text
        then, first_step, resumed = first
        left = (steps - step) * (now - then) / (step - first_step)
        # How long runs take here, against what they are foretold to take.
        scale = (now - started + left) / (60 * run.minutes * (steps - resumed) / steps)
        rest = left + scale * 60 * later / self._at_once
        return f"{text}, {duration(left)} left, {duration(rest)} including later runs"

    def _live(self, text: str) -> None:
        """Rewrites the live line; where there is no terminal, adds a line if it is time for one."""
        now = self._clock()
        if self._is_terminal:
            width = shutil.get_terminal_size().columns
            self._stream.write(f"\r{text[: width - 1]}\x1b[K")
            self._stream.flush()
        elif now - self._last_line >= _LINE_EVERY:
            self._last_line = now
            print(text, file=self._stream, flush=True)

    def _line(self, text: str) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
        print(text, file=self._stream, flush=True)


class _Log:
    """Reads what is appended to a run's `metrics.jsonl`, which a resumed run replaces."""

    def __init__(self, path: str):
        self._path = path
        self._inode, self._position = None, 0

    def new(self) -> list[dict]:
        """The whole records since the last call."""
        try:
            with open(self._path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._position = inode, 0
                file.seek(self._position)
                appended = file.read()
        except FileNotFoundError:
            return []
        whole = appended[: appended.rfind(b"\n") + 1]
        self._position += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def duration(seconds: float) -> str:
    """Formats a time, such as `45 s`, `2 min 5 s` or `1 h 2 min`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
