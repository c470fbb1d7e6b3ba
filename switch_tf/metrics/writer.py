"""The log of a run: TensorBoard events for people, `metrics.jsonl` for programs."""

import json
import time

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from switch_tf import runtime, storage
from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.metrics.load_picture import load_picture

_TRAIN, _EVALUATION = "train", "evaluation"
# Fields of a record other than its metrics.
_KEYS = {"step", "kind", "task"}
# Seconds between two writes of new records to a remote file system.
_REMOTE_EVERY = 60.0


def read_metrics(model_dir: str) -> list[dict]:
    """The records of a run in order, with `step`, `kind` ("train" or "evaluation") and metrics.

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


class _Nowhere:
    """Takes the records and events of a process that is not the chief."""

    def write(self, text: str) -> None:
        pass

    def add_event(self, event: event_pb2.Event) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class MetricsWriter:
    """Writes the metrics of a run's steps and evaluations.

    In a local `model_dir`, records are readable at once. Object stores cannot append, so that each
    write replaces the whole file: there, records are written periodically, with each evaluation,
    and by `flush`.

    Of several processes, all know the evaluations, and only the chief writes.

    Args:
      model_dir: the folder for events and `metrics.jsonl`.
      restored_step: the step that the run resumes from; later records are dropped, since their
        steps will be repeated.
      image_period: steps between two pictures of the load per expert. Each picture enlarges the
        event file, while the load itself is logged as scalars at every step: 100 or more is enough.

    Attributes:
      evaluations: the records of all evaluations so far, including those of earlier processes.
    """

    def __init__(self, model_dir: str, restored_step: int = 0, image_period: int = 100):
        folder = ModelDir(model_dir)
        storage.make_folder(folder.path)
        self._image_period = image_period
        self._every = _REMOTE_EVERY if storage.is_remote(folder.path) else 0.0
        self._written = time.monotonic()
        kept = [r for r in read_metrics(model_dir) if r["step"] <= restored_step]
        self.evaluations = [record for record in kept if record["kind"] == _EVALUATION]
        if not runtime.is_chief():
            self._records = self._events = _Nowhere()
            return
        text = "".join(json.dumps(record) + "\n" for record in kept)
        storage.write_atomically(folder.metrics, text)
        self._records = storage.opened(folder.metrics, "a")
        self._events = EventFileWriter(folder.events)
        # Makes TensorBoard drop an earlier process's records of steps that will be repeated.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.add_event(
            event_pb2.Event(wall_time=time.time(), step=restored_step + 1, session_log=start)
        )

    def evaluated(self, step: int) -> dict[str, set[str]]:
        """Task -> names of the metrics logged for its evaluation at a step."""
        found: dict[str, set[str]] = {}
        for record in self.evaluations:
            if record["step"] == step:
                found.setdefault(record["task"], set()).update(record.keys() - _KEYS)
        return found

    def train(self, step: int, metrics: dict, rates: dict[str, float]) -> None:
        """Logs the metrics of one training step.

        Args:
          step: number of steps taken so far.
          metrics: the metrics returned by `TrainStep`.
          rates: name -> speed, such as tokens per second.
        """
        figures = {k: v for k, v in metrics.items() if isinstance(v, float)} | rates
        routing = metrics["routing"]
        scalars = {f"train/{name}": value for name, value in figures.items()}
        for layer, values in routing.items():
            for name, value in values.items():
                if name == "load_E":
                    for expert, share in enumerate(value):
                        scalars[f"load/{layer}/expert_{expert}"] = float(share)
                else:
                    scalars[f"routing/{name}/{layer}"] = value
        self._scalars(step, scalars)
        if routing and (step == 1 or step % self._image_period == 0):
            self._image(step, "load per expert", load_picture(routing))
        plain = {
            layer: {k: np.asarray(v).tolist() for k, v in values.items()}
            for layer, values in routing.items()
        }
        self._record({"step": step, "kind": _TRAIN} | figures | {"routing": plain})
        if time.monotonic() - self._written >= self._every:
            self.flush()

    def evaluation(self, step: int, task: str, metrics: dict[str, float]) -> None:
        """Logs the metrics of one task's evaluation."""
        self._scalars(step, {f"eval/{task}/{name}": value for name, value in metrics.items()})
        record = {"step": step, "kind": _EVALUATION, "task": task} | metrics
        self.evaluations.append(record)
        self._record(record)
        self.flush()

    def text(self, name: str, value: str) -> None:
        """Adds a text to TensorBoard, shown verbatim."""
        metadata = summary_pb2.SummaryMetadata(
            plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        )
        summary = summary_pb2.Summary()
        entry = summary.value.add(tag=name, metadata=metadata)
        entry.tensor.dtype = 7
        entry.tensor.string_val.append(f"```\n{value}\n```".encode())
        entry.tensor.tensor_shape.dim.add(size=1)
        self._add(0, summary)

    def flush(self) -> None:
        """Writes the records that are still buffered."""
        self._records.flush()
        self._written = time.monotonic()

    def close(self) -> None:
        """Writes what is buffered; nothing can be logged afterwards."""
        self._records.close()
        self._events.close()

    def _scalars(self, step, values):
        entries = [
            summary_pb2.Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
        ]
        self._add(step, summary_pb2.Summary(value=entries))

    def _image(self, step, tag, png: bytes):
        image = summary_pb2.Summary.Image(encoded_image_string=png)
        self._add(
            step, summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, image=image)])
        )

    def _add(self, step, summary):
        self._events.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def _record(self, record):
        self._records.write(json.dumps(record) + "\n")
