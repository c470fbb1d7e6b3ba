"""The log of a run: TensorBoard events for people, `metrics.jsonl` for programs."""

import io
import json
import os
import time
from collections.abc import Iterable, Sequence

import matplotlib.figure
import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

_METRICS = "metrics.jsonl"
_TRAIN, _EVALUATION = "train", "evaluation"
# Of a record, beside its figures.
_KEYS = {"step", "kind", "task"}


def read_metrics(model_dir: str) -> list[dict]:
    """Records of a run in order: `step`, `kind` ("train" or "evaluation"), and their figures.

    A last line that an interrupted process left half-written is passed over.
    """
    records = []
    path = os.path.join(model_dir, _METRICS)
    if not os.path.exists(path):
        return records
    with open(path) as file:
        for line in file:
            if line.endswith("\n"):
                records.append(json.loads(line))
    return records


class MetricsWriter:
    """Writes the figures of a run's steps and evaluations.

    Args:
      model_dir: events and `metrics.jsonl` go there.
      restored_step: records beyond it are of steps that will be made again, and are dropped.
      image_period: steps between two pictures of the load per expert.
    """

    def __init__(self, model_dir: str, restored_step: int = 0, image_period: int = 100):
        os.makedirs(model_dir, exist_ok=True)
        self._image_period = image_period
        kept = [r for r in read_metrics(model_dir) if r["step"] <= restored_step]
        self._evaluated: dict[int, dict[str, set[str]]] = {}
        for record in kept:
            if record["kind"] == _EVALUATION:
                self._note(record["step"], record["task"], record.keys() - _KEYS)
        path = os.path.join(model_dir, _METRICS)
        with open(path + ".new", "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        os.replace(path + ".new", path)
        self._records = open(path, "a", buffering=1)
        self._events = EventFileWriter(os.path.join(model_dir, "tensorboard"))
        # TensorBoard then drops what an earlier process wrote of steps that will be made again.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.add_event(
            event_pb2.Event(wall_time=time.time(), step=restored_step + 1, session_log=start)
        )

    def evaluated(self, step: int) -> dict[str, set[str]]:
        """Task -> names of the figures that were logged of its evaluation at the step."""
        return self._evaluated.get(step, {})

    def _note(self, step: int, task: str, metrics: Iterable[str]) -> None:
        self._evaluated.setdefault(step, {}).setdefault(task, set()).update(metrics)

    def train(self, step: int, metrics: dict, rates: dict[str, float]) -> None:
        """Logs one training step.

        Args:
          step: steps made so far.
          metrics: of `TrainStep`.
          rates: name -> figure of speed.
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
        self._record(step, _TRAIN, figures | {"routing": plain})

    def evaluation(self, step: int, task: str, metrics: dict[str, float]) -> None:
        """Logs the figures of one task's evaluation."""
        self._scalars(step, {f"eval/{task}/{name}": value for name, value in metrics.items()})
        self._record(step, _EVALUATION, {"task": task} | metrics)
        self._note(step, task, metrics)

    def text(self, name: str, value: str) -> None:
        """Adds a text to TensorBoard, shown as it is."""
        metadata = summary_pb2.SummaryMetadata(
            plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        )
        summary = summary_pb2.Summary()
        entry = summary.value.add(tag=name, metadata=metadata)
        entry.tensor.dtype = 7
        entry.tensor.string_val.append(f"```\n{value}\n```".encode())
        entry.tensor.tensor_shape.dim.add(size=1)
        self._add(0, summary)

    def close(self) -> None:
        """Writes what is buffered."""
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

    def _record(self, step, kind, figures):
        self._records.write(json.dumps({"step": step, "kind": kind} | figures) + "\n")


def load_picture(routing: dict[str, dict]) -> bytes:
    """A PNG heat map of each expert's share of the tokens.

    Args:
      routing: layer -> {"load_E": [experts]}.
    """
    load_NE = stack_loads([values["load_E"] for values in routing.values()])
    figure = matplotlib.figure.Figure(figsize=(2 + 0.4 * load_NE.shape[1], 1 + 0.4 * len(load_NE)))
    axes = figure.subplots()
    draw_load(axes, load_NE, list(routing))
    png = io.BytesIO()
    figure.savefig(png, format="png", bbox_inches="tight")
    return png.getvalue()


def stack_loads(loads: Sequence[np.ndarray]) -> np.ndarray:
    """[layers, experts] of the layers' [experts]; NaN where a layer has fewer than another."""
    most = max(len(load_E) for load_E in loads)
    loads = [np.asarray(load_E, float) for load_E in loads]
    return np.stack([np.pad(x, (0, most - len(x)), constant_values=np.nan) for x in loads])


def draw_load(axes, load_NE: np.ndarray, layers: list[str]) -> None:
    """Draws each expert's share of the tokens as a heat map.

    Args:
      axes: of matplotlib.
      load_NE: [layers, experts], NaN where there is no expert.
      layers: their names.
    """
    image = axes.imshow(
        load_NE, vmin=0.0, vmax=max(float(np.nanmax(load_NE)), 2 / load_NE.shape[1])
    )
    axes.set_xticks(range(load_NE.shape[1]))
    axes.set_yticks(range(len(layers)), layers)
    axes.set_xlabel("expert")
    axes.figure.colorbar(image, ax=axes, label="share of tokens")
