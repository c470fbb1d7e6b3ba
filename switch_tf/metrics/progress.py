"""Progress of training steps: a bar on a terminal, an occasional line elsewhere."""

import sys
import time

import tqdm

from switch_tf import runtime

# Seconds between two lines if there is no terminal.
_LINE_EVERY = 8.0


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
