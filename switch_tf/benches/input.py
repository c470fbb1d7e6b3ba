"""`switch-tf bench input`: the input rate of one core against the rate the model consumes.

Both are in positions including padding, which a step of fixed shape also computes; the input rate
is also given in tokens.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from switch_tf import mesh as mesh_lib
from switch_tf import storage
from switch_tf.benches.timing import Spread, quartiles
from switch_tf.checkpoints import run_facts
from switch_tf.data.batch_shape import count_tokens, feature_axes, host_rows
from switch_tf.data.features import describe_order, train_batches
from switch_tf.data.reading import TaskSplit, user_errors
from switch_tf.data.task_data import TaskData
from switch_tf.metrics.tables import table
from switch_tf.rules import Count, Path, configurable
from switch_tf.setup.mesh_model import ModelSetup
from switch_tf.training.step import TrainStep, build_step

# Not timed: the batches that fill buffers, and the first steps, which include compilation.
_WARM_UP_BATCHES, _WARM_UP_STEPS = 5, 2

Batch = dict[str, np.ndarray]


def timed_rounds(
    call: Callable[[], np.ndarray],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Calls a function repeatedly and sums up what it reports.

    Args:
      call: does some work and returns its counts, [counts].
      rounds: number of rounds.
      seconds: minimum length of a round, which ends with the call that exceeds it.
      clock: returns the current time in seconds.

    Returns:
      [rounds, 1 + counts]: the seconds each round took, and the sums of its counts.
    """
    found = []
    for _ in range(rounds):
        start, total, taken = clock(), 0, 0.0
        while taken < seconds:
            total = total + np.asarray(call(), np.float64)
            taken = clock() - start
        found.append(np.concatenate([[taken], np.atleast_1d(total)]))
    return np.stack(found)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Pins all threads of this process, and those they start, to one core.

    All of them, because tf.data works in TensorFlow threads that already exist.
    """
    before = os.sched_getaffinity(0)
    _keep_on({min(before)})
    try:
        yield
    finally:
        _keep_on(before)


def _keep_on(cores: set[int]) -> None:
    seen: set[str] = set()
    # Repeated for threads started by a thread that was not yet pinned.
    while new := set(os.listdir("/proc/self/task")) - seen:
        for thread in new:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)
        seen |= new


@configurable
def bench_input(
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
    rounds: Count = 5,
    seconds: Count = 3,
    hosts: Count = 1,
    output_path: Path | None = None,
) -> None:
    """Prints the rates of a run's input on one core and of its step on a fixed batch.

    Args:
      data, setup: see `train`.
      rounds: number of rounds of each measurement. More give a steadier median and take
        proportionally longer; keep 5 unless the lowest and highest rates lie far apart.
      seconds: minimum length of a round. Longer rounds average over slow batches; raise it if a
        round holds only a few steps.
      hosts: number of hosts that the run will have, each with as many rows of a batch. The input
        is that of the first, which makes only its rows if the tasks are cached or read in
        TaskData.shares.
      output_path: file for the figures as JSON; None writes none.

    Raises:
      UserError: the configuration is invalid, see `train`; or the file cannot be written.
    """
    data, setup = data(), setup()
    rows = host_rows(data.batch_size, 0, hosts)
    if output_path is not None:
        storage.try_to_write(output_path)
    with setup.mesh_model(data, data.seed) as made:
        print(_input_heading(data, rounds, seconds), flush=True)
        # Before the dataset is built, because tf.data counts cores when it creates its threads.
        with one_core(), mesh_lib.host():
            batches = train_batches(data, rows)
            print(describe_order(batches), flush=True)
            delivered, batch = _time_input(batches, rounds, seconds, TaskSplit.of(data))
            if hosts > 1:
                batch = _host_batch(next(iter(train_batches(data))))
        # Deleting the iterator stops its prefetching.
        del batches
        gc.collect()
        print(*input_lines(delivered), sep="\n")
        print(_model_heading(made.mesh, batch, rounds, seconds), flush=True)
        step = build_step(made, setup.optimizer(), data.seed)
        consumed = _time_steps(step, made.mesh, batch, rounds, seconds)
    print(*model_lines(consumed), sep="\n")
    print(verdict(delivered, consumed, data.use_cached))
    if output_path is not None:
        found = figures(delivered, consumed) | {"versions": run_facts.versions()}
        storage.write_json(output_path, found)


def _host_batch(batch) -> Batch:
    return {name: np.asarray(value) for name, value in batch.items()}


def _time_input(
    batches: Iterable, rounds: int, seconds: int, what: str
) -> tuple[np.ndarray, Batch]:
    """[rounds, 3]: seconds, tokens and positions; and the last batch; `what` is for errors.

    Tokens and positions are of whole batches, of which another host makes the other rows.
    """
    batch: Batch = {}
    iterator, rows = iter(batches), getattr(batches, "rows", None)

    def fetch() -> np.ndarray:
        # As `Feed` does on the host; the transfer to the devices is not part of the input rate.
        with user_errors(what):
            batch.update(_host_batch(next(iterator)))
        return np.array([sum(count_tokens(batch, rows)), positions(batch)])

    for _ in range(_WARM_UP_BATCHES):
        fetch()
    return timed_rounds(fetch, rounds, seconds), batch


def _time_steps(step: TrainStep, mesh, batch: Batch, rounds: int, seconds: int) -> np.ndarray:
    """[rounds, 3]: seconds, steps and positions."""
    packed = {n: mesh.pack(v, feature_axes(n)) for n, v in batch.items()}
    counts = np.array([1, positions(batch)])
    made = 0

    def advance() -> np.ndarray:
        nonlocal made
        step(packed, made)
        made += 1
        return counts

    for _ in range(_WARM_UP_STEPS):
        advance()
    return timed_rounds(advance, rounds, seconds)


def positions(batch: Batch) -> int:
    """Input and target positions in a host batch, including padding."""
    return batch["encoder_input_tokens"].size + batch["decoder_target_tokens"].size


def _input_heading(data: TaskData, rounds: int, seconds: int) -> str:
    return (
        f"input: '{data.mixture_or_task_name}', split '{data.split}', on one core of "
        f"{len(os.sched_getaffinity(0))}; rounds: {rounds} of {seconds} s"
    )


def _model_heading(mesh, batch: Batch, rounds: int, seconds: int) -> str:
    devices = f"{mesh.size} device{'s' * (mesh.size > 1)}"
    return (
        f"model: training steps on one batch of {positions(batch):,} positions, {devices} on "
        f"{len(os.sched_getaffinity(0))} cores; rounds: {rounds} of {seconds} s"
    )


_HEADING = ("", "median", "lowest", "highest")


def input_lines(delivered: np.ndarray) -> Iterator[str]:
    """The lines on the input's rate.

    Args:
      delivered: [rounds, 3]: seconds, tokens without padding, positions.
    """
    seconds, tokens, all_positions = delivered.T
    yield from table(
        [
            _HEADING,
            Spread.of(all_positions / seconds).row("positions/s"),
            Spread.of(tokens / seconds).row("tokens/s, without padding"),
            Spread.of(100 * (1 - tokens / all_positions)).row("padding, %", 1),
        ]
    )


def model_lines(consumed: np.ndarray) -> Iterator[str]:
    """The lines on the model's rate.

    Args:
      consumed: [rounds, 3]: seconds, steps, positions.
    """
    seconds, steps, all_positions = consumed.T
    yield from table(
        [
            _HEADING,
            Spread.of(seconds / steps).row("seconds per step", 4),
            Spread.of(all_positions / seconds).row("positions/s"),
        ]
    )


def figures(delivered: np.ndarray, consumed: np.ndarray) -> dict[str, float]:
    """The quartiles over rounds of each rate, by name.

    Args:
      delivered: see `input_lines`.
      consumed: see `model_lines`.
    """
    seconds, tokens, all_positions = delivered.T
    rates = {
        "input_positions_per_second": all_positions / seconds,
        "input_tokens_per_second": tokens / seconds,
        "padding_share": 1 - tokens / all_positions,
        "step_seconds": consumed[:, 0] / consumed[:, 1],
        "step_positions_per_second": consumed[:, 2] / consumed[:, 0],
    }
    found = {}
    for name, values in rates.items():
        lower, median, upper = quartiles(values.tolist())
        found |= {name: median, f"{name}_lower_quartile": lower, f"{name}_upper_quartile": upper}
    return found | {"input_over_step": ratio(delivered, consumed).median}


def ratio(delivered: np.ndarray, consumed: np.ndarray) -> Spread:
    """The input's positions per second divided by the model's.

    Args:
      delivered: see `input_lines`.
      consumed: see `model_lines`.
    """
    rates = [Spread.of(found[:, 2] / found[:, 0]) for found in (delivered, consumed)]
    return rates[0].over(rates[1])


def verdict(delivered: np.ndarray, consumed: np.ndarray, use_cached: bool) -> str:
    """The last line: how many times over one core feeds the model, and the remedy if it does not.

    More cores are no remedy: given two, tf.data and the cache reader kept only one busy.

    Args:
      delivered: see `input_lines`.
      consumed: see `model_lines`.
      use_cached: whether the input came from the task's cache.
    """
    found = ratio(delivered, consumed)
    line = (
        f"one core delivers {found.median:.1f} times what the model consumes "
        f"({found.lowest:.1f} to {found.highest:.1f})"
    )
    if found.median >= 1:
        return f"{line}: feeding it takes {1 / found.median:.1%} of a core"
    mend = (
        "move preprocessors of the task that need not run again in each epoch before its "
        "seqio.CacheDatasetPlaceholder, and cache it again"
        if use_cached
        else "cache the task, so that a run neither reads nor tokenises: scripts/cache_tasks.sh, "
        "USE_CACHED_TASKS=True"
    )
    return f"{line}: the run will be input bound; {mend}"
