"""A profile of some steps of a training, for TensorBoard, and what their time goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator

from switch_tf import runtime, storage
from switch_tf.errors import UserError
from switch_tf.metrics import trace
from switch_tf.stages import telling

FLAG = "--profile_steps"
# A profile holds every operation of every device: more steps take memory, and say nothing new.
_MOST = 50
_STEP = "train_step"


def profiled_steps(text: str, train_steps: int | None) -> range:
    """The steps that the flag names, such as 10-20, which are the first and the last.

    Args:
      text: the flag's value.
      train_steps: the last step of the run, if it is known.

    Raises:
      UserError: it names no steps that the run will make, or too many.
    """
    match = re.fullmatch(r"(\d+)-(\d+)", text, re.ASCII)
    if not match:
        raise UserError(f"{FLAG}={text}: give the first and the last step, such as {FLAG}=10-20")
    first, last = int(match[1]), int(match[2])
    if not 1 <= first <= last:
        raise UserError(
            f"{FLAG}={text}: the first step is 1, and the last must not be before the first, as in "
            f"{FLAG}=10-20"
        )
    if train_steps is not None and last > train_steps:
        raise UserError(
            f"{FLAG}={text} goes beyond TRAIN_STEPS={train_steps}: give steps that the run makes"
        )
    if last - first >= _MOST:
        raise UserError(
            f"{FLAG}={text} are {last - first + 1:,} steps: give at most {_MOST}, as a profile "
            "holds every operation of each"
        )
    return range(first, last + 1)


class Profiler:
    """Takes a profile of some steps of the chief's process, if it is asked for.

    It is a context, which ends a profile that is still taken without writing it.

    Args:
      steps: the steps, by number; none for no profile.
      folder: TensorBoard's folder of the run.
    """

    def __init__(self, steps: range = range(0), folder: str = ""):
        self._steps = steps if runtime.is_chief() else range(0)
        self._files = f"{folder}/plugins/profile/*/*.xplane.pb"
        self._folder = folder
        # Of earlier profiles; None where none is being taken.
        self._earlier: list[str] | None = None
        self._seconds = self._waited = 0.0
        self._made: list[int] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._earlier is not None:
            import tensorflow as tf

            tf.profiler.experimental.stop(save=False)
            self._earlier = None

    def missed(self, step: int) -> list[str]:
        """Lines for the user, if a run that starts behind a step does not make all that are asked.

        Args:
          step: number of steps made before.
        """
        if not self._steps or step < self._steps[0]:
            return []
        left = range(step + 1, self._steps[-1] + 1)
        told = f"steps {left[0]} to {left[-1]} are profiled" if left else "no step is profiled"
        asked = f"{FLAG}={self._steps[0]}-{self._steps[-1]}"
        return [f"{asked}: {told}, as step {step} is made already"]

    def begin(self, step: int) -> list[str]:
        """Begins the profile before a step, if it is one of those asked for.

        Returns:
          A line for the user if it could not be written, so that none is taken: the run is worth
          more.
        """
        if step not in self._steps or self._earlier is not None:
            return []
        import tensorflow as tf

        try:
            with storage.told(f"cannot write to '{self._folder}'"):
                storage.make_folder(self._folder)
                earlier = storage.matching(self._files)
        except UserError as error:
            self._steps = range(0)
            return [_without(error)]
        tf.profiler.experimental.start(self._folder)
        self._earlier = earlier
        return []

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Context in which devices make a step."""
        if self._earlier is None or step not in self._steps:
            yield
            return
        import tensorflow as tf

        with tf.profiler.experimental.Trace(_STEP, step_num=step, _r=1):
            yield

    def made(self, step: int, seconds: float, wait_seconds: float) -> bool:
        """Takes what a step took, in seconds, and how long of that it waited for its batch.

        Returns:
          Whether the profile is to end behind it.
        """
        if self._earlier is None:
            return False
        if step in self._steps:
            self._made.append(step)
            self._seconds += seconds
            self._waited += wait_seconds
        return step >= self._steps[-1]

    def end(self) -> tuple[str, dict[str, float]] | None:
        """Ends the profile, if one is being taken, and writes it.

        Returns:
          A line for the user; and the number of `steps`, `seconds` of an average one, and the
          shares of their time: `computing`, `collectives`, `input` and `other`, the first two only
          if the profile has operations. No figures if it cannot be written or read, as the line
          then says.
        """
        if self._earlier is None:
            return None
        earlier, self._earlier = self._earlier, None
        try:
            with telling("writing the profile"):
                content = self._write(earlier)
        except UserError as error:
            return _without(error), {}
        if not self._made or content is None:
            return None
        found = trace.work(content, _STEP)
        seconds = {} if found is None else dataclasses.asdict(found)
        seconds["input"] = self._waited
        shares = {name: part / self._seconds for name, part in seconds.items()}
        shares["other"] = max(1 - sum(shares.values()), 0.0)
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        count = len(self._made)
        line = f"profile of steps {self._made[0]} to {self._made[-1]}: {told}; in {self._folder}"
        return line, {"steps": count, "seconds": self._seconds / count} | shares

    def _write(self, earlier: list[str]) -> bytes | None:
        """Writes the profile; returns it, or None if there is none.

        Args:
          earlier: the files of those before.

        Raises:
          UserError: it cannot be written or read.
        """
        import tensorflow as tf

        with storage.told(f"cannot write to '{self._folder}'"):
            tf.profiler.experimental.stop()
            written = sorted({*storage.matching(self._files)} - {*earlier})
        if not written:
            return None
        with storage.told(f"cannot read '{written[-1]}'"):
            with storage.opened(written[-1], "rb") as file:
                return file.read()


def _without(error: UserError) -> str:
    """The line of a run that goes on without its profile."""
    return f"warning: no profile is kept: {error}"
