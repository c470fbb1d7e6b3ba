"""`switch-tf bench decode`: greedy decoding of a batch, beside a peer's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from switch_tf import runtime, storage
from switch_tf.benches import machine
from switch_tf.benches.peer import Peer, peer, peer_figures, peer_lines, sizes, versions
from switch_tf.benches.timing import quartile_figures, times_in_turn
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.inference.decoding import EOS_ID, GreedyDecoder
from switch_tf.metrics.tables import size, table
from switch_tf.planner.memory import peak_bytes
from switch_tf.rules import Count, Path, configurable
from switch_tf.setup.mesh_model import ModelSetup
from switch_tf.stages import telling


@configurable(denylist=["against"])
def bench_decode(
    against: str | None = None,
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
    rounds: Count = 5,
    output_path: Path | None = None,
) -> None:
    """Prints the rate at which a batch is decoded, to the length of the targets.

    Args:
      against: name of a peer that decodes as many tokens in turn; see `peer.peer`.
      data: makes the `TaskData`, of which only lengths and batch size matter.
      setup: makes the `ModelSetup`; weights are random.
      rounds: number of timed batches. More give a steadier median and take proportionally longer.
      output_path: file for the figures as JSON; None writes none.

    Raises:
      UserError: sizes are inconsistent, the file cannot be written, the peer cannot run, or every
        sequence ended early, which is unlikely.
    """
    data, setup = data(), setup()
    if output_path is not None:
        storage.try_to_write(output_path)
    inputs, length = (data.task_feature_lengths[name] for name in ("inputs", "targets"))
    with setup.mesh(data) as mesh, contextlib.ExitStack() as stack:
        model = setup.model()
        with telling("compiling"):
            calls = {"step": _decoding(model, GreedyDecoder(model, mesh, length), data)}
        figures = {
            "seconds_from_command_to_first_batch": machine.seconds_since_start(),
            "peak_bytes": peak_bytes(),
        }
        other = against and stack.enter_context(peer(against, sizes(model, data, decodes=True)))
        if other:
            calls["peer"] = other.call
        with telling("timing batches"):
            taken = times_in_turn(calls, rounds)
        figures |= _figures(taken, data.batch_size * length, other)
    runtime.tell(
        f"greedy decoding of {data.batch_size} x ({inputs} + {length}) tokens, "
        f"{model.compute_dtype}, {mesh.size} device{'s' * (mesh.size > 1)}; {rounds} batches",
        *_lines(figures),
    )
    if other:
        runtime.tell("", f"in turn with {other}:", *peer_lines(figures))
    if output_path is not None:
        storage.write_json(output_path, figures | {"versions": versions(other)})


def _decoding(model, decoder: GreedyDecoder, data: TaskData) -> Callable[[], object]:
    """Builds the model, and returns a call that decodes a batch, after it has done so once."""
    model.build()
    random = np.random.default_rng(0)
    shape = (data.batch_size, data.task_feature_lengths["inputs"])
    input_tokens = random.integers(3, model.vocab_size, shape).astype(np.int32)
    if (decoder(input_tokens) == EOS_ID).any(axis=1).all():
        raise UserError("every sequence ended before the last token: change SEED")
    return lambda: decoder(input_tokens)


def _figures(taken: Mapping[str, Sequence[float]], tokens: int, other: Peer | None) -> dict:
    found = quartile_figures("batch", taken["step"])
    found["tokens_per_second"] = tokens / found["batch_seconds"]
    return found | peer_figures(taken, tokens, other)


def _lines(figures: Mapping[str, float]) -> Iterator[str]:
    seconds = (
        figures[f"batch_seconds{which}"] for which in ("", "_lower_quartile", "_upper_quartile")
    )
    first = figures["seconds_from_command_to_first_batch"]
    return table(
        [
            ("batch, s (quartiles)", "{:.3f} ({:.3f} to {:.3f})".format(*seconds)),
            ("decoded tokens/s", f"{figures['tokens_per_second']:,.0f}"),
            ("peak memory of the process", size(figures["peak_bytes"])),
            ("from the command to the end of the first batch, s", f"{first:.1f}"),
        ]
    )
