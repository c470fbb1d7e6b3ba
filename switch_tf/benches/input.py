"""`switch-tf bench input`: what one core delivers of a run's input against what its model consumes.

Both in positions, padding too, in which a step of fixed shape counts; and the input in tokens.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from switch_tf import mesh as mesh_lib
from switch_tf.benches.timing import Spread
from switch_tf.data.batch_shape import count_tokens, feature_axes
from switch_tf.data.features import describe_order, train_batches, user_errors
from switch_tf.data.task_data import TaskData
from switch_tf.metrics.tables import table
from switch_tf.rules import Count, configurable
from switch_tf.setup.mesh_model import ModelSetup
from switch_tf.training.microbatches import check_parts
from switch_tf.training.step import TrainStep

# Not timed: batches that fill buffers, and steps, of which the first is compiled.
_WARM_UP_BATCHES, _WARM_UP_STEPS = 5, 2

Batch = dict[str, np.ndarray]


def timed_rounds(
    call: Callable[[], np.ndarray],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Calls a function over and over, and counts what it did.

    Args:
      call: returns counts of what one call did, [counts].
      rounds: how many.
      seconds: of each, at least; it ends with the call in which they pass.
      clock: seconds so far.

    Returns:
      [rounds, 1 + counts]: the seconds that each round took, and the sums of its counts.
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
    """Keeps all threads of this process, and those that they start, on one core.

    All, because tf.data works in threads of TensorFlow's that are there already.
    """
    before = os.sched_getaffinity(0)
    _keep_on({min(before)})
    try:
        yield
    finally:
        _keep_on(before)


def _keep_on(cores: set[int]) -> None:
    seen: set[str] = set()
    # Again, for those that a thread not yet seen to has started.
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
) -> None:
    """Times the input of a run on one core, then its step on one batch, and prints both.

    Args:
      data, setup: as those of `train`.
      rounds: of each of the two measurements.
      seconds: of each round, at least.

    Raises:
      UserError: what does not fit, as of `train`.
    """
    data, setup = data(), setup()
    with setup.mesh_model(data, data.seed) as made:
        print(_input_heading(data, rounds, seconds), flush=True)
        # From the start: tf.data counts cores when it makes its threads.
        with one_core(), mesh_lib.host():
            batches = train_batches(data)
            print(describe_order(batches), flush=True)
            delivered, batch = _time_input(iter(batches), rounds, seconds)
        # What reads ahead stops with its iterator.
        del batches
        gc.collect()
        print(*input_lines(delivered), sep="\n")
        print(_model_heading(made.mesh, batch, rounds, seconds), flush=True)
        made.model.build()
        optimizer = setup.optimizer()
        optimizer.build(made.model.trainable_variables)
        step = TrainStep(made.model, optimizer, made.mesh, data.seed)
        check_parts(data.batch_size, step.microbatches, made.mesh.ways("batch"))
        consumed = _time_steps(step, made.mesh, batch, rounds, seconds)
    print(*model_lines(consumed), sep="\n")
    print(verdict(delivered, consumed, data.use_cached))


def _time_input(iterator: Iterator, rounds: int, seconds: int) -> tuple[np.ndarray, Batch]:
    """[rounds, 3], seconds, tokens and positions; and the last batch."""
    batch: Batch = {}

    def fetch() -> np.ndarray:
        # What `Feed` does on the host; to bring a batch to the devices is part of no core's input.
        with user_errors("data"):
            batch.update({name: np.asarray(value) for name, value in next(iterator).items()})
        return np.array([sum(count_tokens(batch)), positions(batch)])

    for _ in range(_WARM_UP_BATCHES):
        fetch()
    return timed_rounds(fetch, rounds, seconds), batch


def _time_steps(step: TrainStep, mesh, batch: Batch, rounds: int, seconds: int) -> np.ndarray:
    """[rounds, 3], seconds, steps and positions."""
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
    """Input and target positions of a host batch, padding too."""
    return batch["encoder_input_tokens"].size + batch["decoder_target_tokens"].size


def _input_heading(data: TaskData, rounds: int, seconds: int) -> str:
    return (
        f"input: '{data.mixture_or_task_name}', split '{data.split}', on one core alone of "
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
    """Lines on the input.

    Args:
      delivered: [rounds, 3], seconds, tokens that are no padding, positions.
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
    """Lines on the model.

    Args:
      consumed: [rounds, 3], seconds, steps, positions.
    """
    seconds, steps, all_positions = consumed.T
    yield from table(
        [
            _HEADING,
            Spread.of(seconds / steps).row("seconds a step", 4),
            Spread.of(all_positions / seconds).row("positions/s"),
        ]
    )


def ratio(delivered: np.ndarray, consumed: np.ndarray) -> Spread:
    """Positions a second of the input over those of the model.

    Args:
      delivered: as `input_lines`.
      consumed: as `model_lines`.
    """
    rates = [Spread.of(found[:, 2] / found[:, 0]) for found in (delivered, consumed)]
    return rates[0].over(rates[1])


def verdict(delivered: np.ndarray, consumed: np.ndarray, use_cached: bool) -> str:
    """The last line: how many times over one core feeds the model, and what to do if it does not.

    More cores are no mend: on two, tf.data and the reader of caches were seen to keep one busy.

    Args:
      delivered: as `input_lines`.
      consumed: as `model_lines`.
      use_cached: whether the task's cache was read.
    """
    found = ratio(delivered, consumed)
    line = (
        f"one core delivers {found.median:.1f} times what the model consumes "
        f"({found.lowest:.1f} to {found.highest:.1f})"
    )
    if found.median >= 1:
        return f"{line}: to feed it takes {1 / found.median:.1%} of a core"
    mend = (
        "move preprocessors of the task that need not run anew in each epoch before its "
        "seqio.CacheDatasetPlaceholder, and cache it again"
        if use_cached
        else "cache the task, so that a run neither reads nor tokenises: scripts/cache_tasks.sh, "
        "USE_CACHED_TASKS=True"
    )
    return f"{line}: the run will be input bound; {mend}"
