"""The log of a run: TensorBoard events for people, `metrics.jsonl` for programs."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from switch_tf import runtime, storage
from switch_tf.checkpoints.model_dir import ModelDir, claim
from switch_tf.metrics import goodput
from switch_tf.metrics.events import Events, ScalarWriter
from switch_tf.metrics.load_picture import load_picture
from switch_tf.metrics.load_watch import load_entropy
from switch_tf.metrics.means import Means
from switch_tf.rules import Count, configurable

_TRAIN, _EVALUATION, _DATA, _GOODPUT = "train", "evaluation", "data", "goodput"
_BAD_STEP, _PROFILE = "bad_step", "profile"
# Fields of a record other than its metrics.
KEYS = frozenset(("step", "kind", "task", "split"))
# Seconds between two writes of new records to a remote file system.
_REMOTE_EVERY = 60.0


def read_metrics(model_dir: str) -> list[dict]:
    """The records of a run in order, with `step`, `kind` and metrics; see docs/logging.md.

    Skips a last line left incomplete by an interrupted process.
    """
    records = []
    path = ModelDir(model_dir).metrics
    if not storage.exists(path):
        return records
    with storage.opened(path) as file:
        for line in file:
            if line.endswith("\n"):
                records.append(json.loads(line))
    return records


@configurable(denylist=["model_dir", "restored_step"])
class MetricsWriter:
    """Writes the metrics of a run's steps and evaluations.

    A record holds the means over the steps since the one before it, and their number, `steps`:
    nothing is lost between two records. One is written each `log_period` steps, after a process's
    first step, whose seconds are those of compilation, with each checkpoint and evaluation, and at
    the end.

    In a local `model_dir`, records are readable at once. Object stores cannot append, so that each
    write replaces the whole file: there, records are written periodically, with each evaluation,
    and by `flush`.

    Of several processes, all know the evaluations, and only the chief writes.

    Args:
      model_dir: the folder for events and `metrics.jsonl`.
      restored_step: the step that the run resumes from; later records are dropped, since their
        steps will be repeated. At 0, where the checkpoints may be gone, the old files are kept
        under other names.
      log_period: steps between two records of the log. A record takes about 5 kB: at 10, the log
        of 100,000 steps takes 50 MB. 1 logs each step by itself, which is good for short runs.
      routing_period: steps between two records that also have each Switch layer by itself, with the
        load of each expert; others have the mean over the layers. A layer takes 1 kB and 20 bytes
        per expert.
      image_period: steps between two pictures of the load per expert, of some 50 kB each.
      others: functions that make further writers from `model_dir`; each writer gets all scalars.
        See `events.ScalarWriter`.

    Attributes:
      evaluations: the records of all evaluations so far, including those of earlier processes.
      earlier: kind of time -> seconds that earlier processes took until the restored step.
      lost_seconds: seconds of the steps that they made beyond it.
    """

    def __init__(
        self,
        model_dir: str,
        restored_step: int = 0,
        log_period: Count = 10,
        routing_period: Count = 100,
        image_period: Count = 1000,
        others: Sequence[Callable[[str], ScalarWriter]] = (),
    ):
        self._folder = folder = ModelDir(model_dir)
        with self._disk_errors():
            storage.make_folder(folder.path)
        self._log_period = log_period
        self._routing_period = routing_period
        self._image_period = image_period
        self._every = _REMOTE_EVERY if storage.is_remote(folder.path) else 0.0
        self._makers = others
        self._is_chief = runtime.is_chief()
        self._start(restored_step)

    def _disk_errors(self):
        return storage.told(f"cannot write to MODEL_DIR '{self._folder.path}'")

    def _start(self, restored_step: int, keeps_data: bool = False) -> None:
        """Starts writing behind a step.

        Args:
          restored_step: the step.
          keeps_data: whether records of the data stay, which each process tells of anew.
        """
        folder = self._folder
        self._written = time.monotonic()
        self._means = Means()
        # Of the last step, and of the last record.
        self._step = self._logged = restored_step
        self._is_first = True
        every = read_metrics(folder.path)
        old = [record for record in every if keeps_data or record["kind"] != _DATA]
        kept = [record for record in old if record["step"] <= restored_step]
        self.evaluations = [record for record in kept if record["kind"] == _EVALUATION]
        spent = [record for record in kept if record["kind"] == _GOODPUT]
        self.earlier = {k: v for k, v in (spent or [{}])[-1].items() if k not in KEYS}
        self.lost_seconds = sum(
            record["seconds"] * record["steps"]
            for record in old
            if record["kind"] == _TRAIN and record["step"] > restored_step
        )
        if not self._is_chief:
            return
        with self._disk_errors():
            if len(kept) < len(old):
                _tell_of_later(folder, restored_step, max(record["step"] for record in old))
            text = "".join(json.dumps(record) + "\n" for record in kept)
            storage.write_atomically(folder.metrics, text)
            self._records = storage.opened(folder.metrics, "a")
            self._events = Events(folder.events, restored_step)
        self._others = [make(folder.path) for make in self._makers]

    def evaluated(self, step: int, split: str = "validation") -> dict[str, set[str]]:
        """Task -> names of the metrics logged for its evaluation on a split at a step."""
        found: dict[str, set[str]] = {}
        for record in self.evaluations:
            if record["step"] == step and record.get("split", split) == split:
                found.setdefault(record["task"], set()).update(record.keys() - KEYS)
        return found

    def train(self, step: int, metrics: dict, rates: dict[str, float]) -> None:
        """Takes the metrics of one training step, and logs them where a record is due.

        Args:
          step: number of steps taken so far.
          metrics: the metrics returned by `TrainStep`.
          rates: see `Means.add`.
        """
        if not self._is_chief:
            return
        self._means.add(metrics, rates)
        is_first, self._step = self._is_first, step
        self._is_first = False
        if is_first or self._is_due(self._log_period):
            self._log()
            if time.monotonic() - self._written >= self._every:
                self.flush()

    def _is_due(self, period: int) -> bool:
        """Whether a multiple of the period lies behind the last record, or it is the first step."""
        return self._logged == 0 or self._step // period > self._logged // period

    def _log(self) -> None:
        """Logs the means over the steps since the last record, if there are any."""
        steps = self._means.steps
        if not steps:
            return
        found = self._means.take()
        figures = {name: value for name, value in found.items() if isinstance(value, float)}
        norms, routing = found.get("norms", {}), found.get("routing", {})
        scalars = {f"train/{name}": value for name, value in figures.items()}
        for kind, groups in norms.items():
            scalars |= {f"norms/{kind}/{group}": norm for group, norm in groups.items()}
        record = {"step": self._step, "kind": _TRAIN, "steps": steps} | figures
        if norms:
            record["norms"] = norms
        if routing:
            layers = {layer: _scalars(values) for layer, values in routing.items()}
            record["routing_mean"] = {
                name: sum(values[name] for values in layers.values()) / len(layers)
                for name in next(iter(layers.values()))
            }
            scalars |= {f"routing/{name}": v for name, v in record["routing_mean"].items()}
            if self._is_due(self._routing_period):
                for layer, values in layers.items():
                    scalars |= {f"routing/{name}/{layer}": v for name, v in values.items()}
                record["routing"] = {
                    layer: values | {"load_E": routing[layer]["load_E"].tolist()}
                    for layer, values in layers.items()
                }
            if self._is_due(self._image_period):
                with self._disk_errors():
                    self._events.image(self._step, "load per expert", load_picture(routing))
        self._write_scalars(self._step, scalars)
        self._record(record)
        self._logged = self._step

    def evaluation(
        self, step: int, task: str, metrics: dict[str, float], split: str = "validation"
    ) -> None:
        """Logs the metrics of one task's evaluation on a split."""
        record = {"step": step, "kind": _EVALUATION, "task": task, "split": split} | metrics
        self.evaluations.append(record)
        if self._is_chief:
            self._log()
            self._write_scalars(step, {f"eval/{task}/{name}": v for name, v in metrics.items()})
            self._record(record)
            self.flush()

    def data(self, task: str, figures: Mapping[str, float]) -> None:
        """Logs figures of one task's training data, at the step that the run starts from."""
        if self._is_chief:
            self._write_scalars(self._step, {f"data/{task}/{n}": v for n, v in figures.items()})
            self._record({"step": self._step, "kind": _DATA, "task": task} | figures)

    def bad_step(self, step: int, bad: int, why: str, loss: float) -> None:
        """Logs a bad step, at the step from which the run goes on.

        Args:
          step: number of steps of the run that stay.
          bad: the number that the bad step had, or would have had.
          why: what is bad about it.
          loss: its loss.
        """
        if self._is_chief:
            told = {"bad_step": bad, "why": why, "loss": loss}
            self._record({"step": step, "kind": _BAD_STEP} | told)
            self.flush()

    def profile(self, step: int, figures: Mapping[str, float]) -> None:
        """Logs what the time of profiled steps went on; see `profiling.Profiler.end`."""
        if self._is_chief:
            self._record({"step": step, "kind": _PROFILE} | dict(figures))
            self.flush()

    def rewind(self, step: int) -> float:
        """Drops what is logged of later steps, as a process that restores a step does.

        Returns:
          Seconds of the steps that are dropped.
        """
        if not self._is_chief:
            self.evaluations = [r for r in self.evaluations if r["step"] <= step]
            return 0.0
        self.close()
        self._start(step, keeps_data=True)
        return self.lost_seconds

    def goodput(self, step: int, seconds: Mapping[str, float]) -> None:
        """Logs where the time went until a step: kind -> seconds; see `goodput.Goodput`."""
        if self._is_chief:
            found = goodput.shares(seconds)
            self._write_scalars(step, {f"goodput/{kind}": share for kind, share in found.items()})
            self._record({"step": step, "kind": _GOODPUT} | dict(seconds))
            self.flush()

    def start(self, config: str, settings: Mapping[str, Any]) -> None:
        """Logs what the run is made with.

        Args:
          config: the operative config, shown as a text.
          settings: name -> setting, for the HParams tab.
        """
        if self._is_chief:
            with self._disk_errors():
                self._events.text("operative config", config)
                self._events.settings(settings)

    def flush(self) -> None:
        """Logs the steps since the last record, and writes all records that are buffered."""
        if self._is_chief:
            self._log()
            with self._disk_errors():
                self._records.flush()
                self._events.flush()
            self._written = time.monotonic()

    def close(self) -> None:
        """Like `flush`; nothing can be logged afterwards."""
        if self._is_chief:
            self._log()
            with self._disk_errors():
                self._records.close()
                self._events.close()
            for writer in self._others:
                writer.close()

    def _write_scalars(self, step, values):
        with self._disk_errors():
            self._see_whether_it_is_there()
            self._events.scalars(step, values)
        for writer in self._others:
            writer.scalars(step, values)

    def _record(self, record):
        with self._disk_errors():
            self._see_whether_it_is_there()
            self._records.write(json.dumps(record) + "\n")

    def _see_whether_it_is_there(self):
        """Starts the log anew where somebody removed or moved it while the run goes on."""
        path = self._folder.metrics
        if storage.is_still_at(self._records, path):
            return
        print(
            f"{path} was removed or moved: it begins again behind step "
            f"{self._logged:,}, with the evaluations of before"
        )
        storage.make_folder(self._folder.path)
        old = self._records, self._events
        self._records = storage.opened(path, "a")
        self._events = Events(self._folder.events, self._step)
        self._records.writelines(json.dumps(record) + "\n" for record in self.evaluations)
        for file in old:
            file.close()


def _tell_of_later(folder: ModelDir, restored_step: int, last: int) -> None:
    """Tells of the records beyond the restored step, and sets the files aside if it is 0."""
    if restored_step:
        print(f"records of steps {restored_step + 1:,} to {last:,} are dropped, and made again")
        return
    names = []
    for path in (folder.metrics, folder.best):
        if storage.exists(path):
            stem, end = os.path.splitext(path)
            aside = claim(f"{stem}_until_{last}{end}")
            storage.move_file(path, aside)
            names.append(os.path.basename(aside))
    print(f"{folder.path} has records up to step {last:,}, kept as {' and '.join(names)}")


def _scalars(figures: Mapping) -> dict[str, float]:
    """A layer's scalars, and its load's entropy by that of an even load (1.0 is even)."""
    scalars = {name: value for name, value in figures.items() if name != "load_E"}
    load_E = figures["load_E"]
    return scalars | ({"load_entropy": load_entropy(load_E)} if len(load_E) > 1 else {})
