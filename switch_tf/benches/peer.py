"""Other implementations of the same model, in processes of their own, timed in turn with ours."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from switch_tf.benches.timing import quartile_figures
from switch_tf.checkpoints import run_facts
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.metrics.tables import size, table
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.rules import Name, configurable

_FOLDER = Path(__file__).parent / "peers"
_REQUIREMENTS = "requirements-bench.txt"


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer that runs.

    Attributes:
      name: of the module of `peers` that it runs.
      versions: package -> version.
      parameters: number of its model's parameters.
    """

    name: str
    versions: Mapping[str, str]
    parameters: int
    _process: subprocess.Popen
    _answers: list[dict] = dataclasses.field(default_factory=list)

    def call(self) -> None:
        """Has it take a step, and returns when that is done.

        Raises:
          UserError: it ended.
        """
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self._answers.append(_answer(self._process))

    @property
    def peak_bytes(self) -> int:
        """The peak resident memory of its process, after at least one `call`."""
        return self._answers[-1]["peak_bytes"]

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


@configurable(denylist=["name", "sizes"])
@contextlib.contextmanager
def peer(name: str, sizes: Mapping, python: Name = ".venv-bench/bin/python") -> Iterator[Peer]:
    """Context with a peer whose model is set up and has taken its first steps.

    Args:
      name: of a module of `peers`.
      sizes: see `sizes`.
      python: a Python with the packages of requirements-bench.txt, which do not fit into the
        environment of this project.

    Raises:
      UserError: the Python does not exist, or the peer cannot start.
    """
    if not os.path.exists(python):
        raise UserError(
            f"--against={name} needs {python}: python3.11 -m venv .venv-bench && "
            f".venv-bench/bin/pip install -r {_REQUIREMENTS}, or set peer.python"
        )
    process = subprocess.Popen(
        [python, str(_FOLDER / f"{name}.py"), json.dumps(sizes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Peer(name, **_answer(process), _process=process)
    finally:
        process.kill()
        process.communicate()


def _answer(process: subprocess.Popen) -> dict:
    line = process.stdout.readline()
    if not line:
        told = process.stderr.read().strip() or "no output"
        raise UserError(
            f"the peer ended: {told.splitlines()[-1]}; see whether its environment has the "
            f"packages of {_REQUIREMENTS}"
        )
    return json.loads(line)


def sizes(model: TransformerEncoderDecoder, data: TaskData, decodes: bool = False) -> dict:
    """The sizes of a model and its batch, for a peer.

    Args:
      model: a built model.
      data: gives batch size and lengths; when decoding, the targets are as long as decoded text.
      decodes: whether the peer decodes, in place of training.

    Raises:
      UserError: no peer has such a model.
    """
    sparse = [layer for layer in model.switch_layers if isinstance(layer, SwitchFFN)]
    experts = {layer.num_experts for layer in sparse}
    is_alike = model.activation == "relu" and model.tied_softmax and len(experts) <= 1
    if not is_alike or len(sparse) != len(model.switch_layers):
        raise UserError(
            "--against times models with ReLU, a tied softmax and sparse feed-forward layers "
            "alone, since no peer has others"
        )
    inputs, targets = (data.task_feature_lengths[name] for name in ("inputs", "targets"))
    number = max(experts, default=0)
    # The peer's groups are rows.
    capacity = sparse[0].router.capacity(inputs, training=True) if sparse else 0
    return {
        "vocab_size": model.vocab_size,
        "d_model": model.d_model,
        "d_kv": model.d_kv,
        "d_ff": model.d_ff,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "num_experts": number,
        "sparse_layers": len(sparse) // 2,
        "expert_capacity": capacity,
        "dtype": model.compute_dtype,
        "cores": len(os.sched_getaffinity(0)),
        "batch_size": data.batch_size,
        "inputs": inputs,
        "targets": targets,
        "decodes": decodes,
    }


def versions(other: Peer | None) -> dict[str, str | None]:
    """Package -> version, of ours and of a peer, if there is one."""
    return run_facts.versions() | (dict(other.versions) if other else {})


def peer_figures(
    taken: Mapping[str, Sequence[float]], tokens: int, other: Peer | None
) -> dict[str, float]:
    """Figures of a peer's steps, and of ours against them; none without a peer.

    Args:
      taken: seconds of our steps, under "step", and of its, under "peer".
      tokens: positions of a batch, including padding.
      other: the peer.
    """
    if not other:
        return {}
    found = quartile_figures("peer_step", taken["peer"])
    median = found["peer_step_seconds"]
    return found | {
        "peer_tokens_per_second": tokens / median,
        "peer_peak_bytes": other.peak_bytes,
        "times_as_fast_as_peer": median / statistics.median(taken["step"]),
    }


def peer_lines(figures: Mapping[str, float]) -> Iterator[str]:
    """The lines of a table of `peer_figures`."""
    ms = (
        f"{1e3 * figures[f'peer_step_seconds{which}']:,.1f}"
        for which in ("", "_lower_quartile", "_upper_quartile")
    )
    return table(
        [
            ("its step, ms (quartiles)", "{} ({} to {})".format(*ms)),
            ("its tokens/s", f"{figures['peer_tokens_per_second']:,.0f}"),
            ("its peak memory", size(figures["peer_peak_bytes"])),
            ("ours is as fast, times", f"{figures['times_as_fast_as_peer']:.2f}"),
        ]
    )
