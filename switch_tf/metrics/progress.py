"""Progress display: a bar on a terminal, an occasional line elsewhere, and what takes long."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import tqdm

from switch_tf import runtime

# Seconds between two lines if there is no terminal.
_LINE_EVERY = 8.0
# Seconds between two lines of a stage that goes on.
_STAGE_EVERY = 5.0


class Progress:
    """Shows steps, loss, NLP, tokens per second, drop rate and the share of time spent on input.

    Of several processes, only the chief shows anything.

    Args:
      total: number of steps of the whole run.
      initial: number of steps taken before.
    """

    def __init__(self, total: int, initial: int = 0):
        self._total = total
        self._is_chief = runtime.is_chief()
        self._is_terminal = sys.stderr.isatty()
        is_hidden = not (self._is_chief and self._is_terminal)
        self._bar = tqdm.tqdm(total=total, initial=initial, unit="step", disable=is_hidden)
        self._last_line = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def update(self, step: int, metrics: dict, rates: dict[str, float]) -> None:
        """Shows the metrics of one step.

        Args:
          step: number of steps taken so far.
          metrics: the metrics returned by `TrainStep`.
          rates: values of "tokens_per_second" and "input_wait_share".
        """
        if not self._is_chief:
            return
        shown = {
            "loss": f"{metrics['loss']:.3f}",
            "nlp": f"{metrics['nlp']:.3f}",
            "tokens/s": f"{rates['tokens_per_second']:,.0f}",
            "input wait": f"{rates['input_wait_share']:.0%}",
        }
        dropped = [layer["dropped"] for layer in metrics["routing"].values()]
        if dropped:
            shown["dropped"] = f"{sum(dropped) / len(dropped):.1%}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(1)
        now = time.monotonic()
        if not self._is_terminal and (now - self._last_line > _LINE_EVERY or step == self._total):
            self._last_line = now
            figures = "  ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {step}/{self._total}  {figures}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._is_chief:
            tqdm.tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def telling(what: str, at_once: bool = True) -> Iterator[Callable[[str], None]]:
    """Context of a stage of a command, which tells on stderr every few seconds that it goes on.

    Yields a function that takes how far it is, for the next line. Of several processes, only the
    chief tells.

    Args:
      what: what is done in it, such as "building the model".
      at_once: whether to tell at its start, too; False where another line has done so.

    Raises:
      Interruption: a signal came before it, and a library swallowed what it raised.
    """
    runtime.check_interrupted()
    started, ended, parts = time.monotonic(), threading.Event(), [""]

    def tell_while_it_lasts():
        while not ended.wait(_STAGE_EVERY):
            so_far = f"{parts[0]}{time.monotonic() - started:.0f} s so far"
            tqdm.tqdm.write(f"{what}: {so_far}", file=sys.stderr)

    def take(part):
        parts[0] = f"{part}, "

    if not runtime.is_chief():
        yield take
        return
    if at_once:
        tqdm.tqdm.write(what, file=sys.stderr)
    thread = threading.Thread(target=tell_while_it_lasts, daemon=True)
    thread.start()
    try:
        yield take
    finally:
        ended.set()
        thread.join()
