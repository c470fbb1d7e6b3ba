"""What a finished run leaves for reports: a small JSON file that a repository can keep."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from switch_tf import storage
from switch_tf.reproduce.machine_load import Load

# Skipped when timing: compilation, and system effects at the start of a run.
_UNTIMED_STEPS = 5
# The load of the experts is the mean over so many last steps.
_LOAD_STEPS = 50
# Settings that say where something is on this machine, or only how long it trains and what it
# writes when. They do not tell one run from another; see `difference`.
PLACES = (
    *("MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "TEACHER_PATH", "train.model_dir"),
    *("train.initial_checkpoint_path", "Distillation.teacher_path", "DATA_DIR"),
)
_MAY_CHANGE = (
    *PLACES,
    *("TRAIN_STEPS", "CHECKPOINT_PERIOD", "EVAL_PERIOD", "LOG_PERIOD", "ROUTING_PERIOD"),
    *("MetricsWriter.log_period", "MetricsWriter.routing_period"),
    *("train.train_steps", "train.checkpoint_period", "Evaluation.period"),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """The figures of a run that is done.

    Attributes:
      name: the run's name in messages.
      settings: the settings of its gin files and flags, without paths.
      facts: the contents of `run.json`: sizes, FLOPs, unigram entropy, mesh, dtype, versions.
      evaluations: the records of its evaluations, in order.
      seconds_per_step: the median over its training steps but for the first five.
      tokens_per_second: likewise.
      load: layer -> its experts' shares of the tokens, mean over the last 50 steps; {} for a dense
        model.
      diverged_at: the step whose loss was not finite, which ended the run; None if it ended well.
      sittings: what each of its processes took; see `machine_load`.
      environment: date, processor and number of cores.
    """

    name: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]
    seconds_per_step: float
    tokens_per_second: float
    load: Mapping[str, Sequence[float]]
    diverged_at: int | None
    sittings: Sequence[Mapping[str, float]]
    environment: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        settings: Mapping[str, Any],
        facts: Mapping[str, Any],
        records: Sequence[Mapping[str, Any]],
        sittings: Sequence[Mapping[str, float]],
        diverged_at: int | None = None,
    ) -> Result:
        """The result of a run from its log.

        Args:
          records: see `metrics.writer.read_metrics`.
          name, settings, facts, sittings, diverged_at: see the class.
        """
        steps = [record for record in records if record["kind"] == "train"]
        return cls(
            name=name,
            settings={k: v for k, v in as_json(settings).items() if k not in PLACES},
            facts=facts,
            evaluations=[
                {k: _short(v) for k, v in record.items() if k != "kind"}
                for record in records
                if record["kind"] == "evaluation"
            ],
            seconds_per_step=_median(steps, "seconds"),
            tokens_per_second=_median(steps, "tokens_per_second"),
            load=_load(steps),
            diverged_at=diverged_at,
            sittings=sittings,
            environment=environment(),
        )

    @classmethod
    def read(cls, path: Path) -> Result:
        """Reads what `write` wrote."""
        return cls(**json.loads(storage.read_text(path)))

    def write(self, path: Path) -> None:
        """Writes the result as JSON, a line for each attribute."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = dataclasses.asdict(self).items()
        text = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found)
        storage.write_atomically(path, f"{{\n{text}\n}}\n")

    @property
    def step(self) -> int:
        """The last step that was evaluated; 0 if none was."""
        return max((record["step"] for record in self.evaluations), default=0)

    @property
    def core_hours(self) -> float:
        """The hours that its processes took, times the cores that each of them had."""
        return sum(s["seconds"] * _cores(s) for s in self.sittings) / 3600

    def slowed_by(self) -> Load | None:
        """The largest load of others in one of its sittings; None if none of them is notable."""
        loads = [Load(sitting["others"], sitting["cores"]) for sitting in self.sittings]
        return max(filter(Load.is_notable, loads), key=lambda load: load.share, default=None)


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON would give them back; what it has no form for becomes its text."""
    return json.loads(json.dumps(settings, default=repr))


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting in which two runs differ, with both values; None if they are one run.

    Paths may differ, and what changes no figure: the length, and what is written when.
    """
    then, now = as_json(then), as_json(now)
    for name in sorted((then.keys() | now.keys()) - set(_MAY_CHANGE)):
        if then.get(name) != now.get(name):
            return name, then.get(name), now.get(name)
    return None


def _cores(sitting: Mapping[str, float]) -> float:
    return sitting["cores"] / sitting.get("at_once", 1)


def _short(value):
    """Seven digits are those of float32."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _median(steps: Sequence[Mapping], figure: str) -> float:
    """The median of a figure over the records after the first steps; NaN if there is none."""
    found = [r[figure] for r in steps if r["step"] > _UNTIMED_STEPS and figure in r]
    return _short(statistics.median(found)) if found else float("nan")


def _load(steps: Sequence[Mapping]) -> dict[str, list[float]]:
    """Layer -> the mean load of its experts over the last steps that logged it."""
    last = steps[-1]["step"] if steps else 0
    found = [r["routing"] for r in steps if "routing" in r and r["step"] > last - _LOAD_STEPS]
    return {
        layer: [
            _short(statistics.mean(of_expert))
            for of_expert in zip(*(routing[layer]["load_E"] for routing in found), strict=True)
        ]
        for layer in (found[0] if found else ())
    }


def environment() -> dict[str, Any]:
    """What a figure of this machine depends on: date, processor, number of cores."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
    }


def _processor() -> str:
    """The name of the processor, with the widest of its vector units that matter for speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {name.strip(): value.split() for name, value in found.items()}
    units = [u for u in ("avx512_bf16", "avx512f", "avx2") if u in known.get("flags", ())][:1]
    return " ".join([*known.get("model name", [platform.processor()]), *units])
