"""TensorBoard's events of a run, and the interface of other writers of its scalars."""

import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any, Protocol

import tensorflow as tf
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from switch_tf import storage

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\..*")


class ScalarWriter(Protocol):
    """The interface of the writers made by `MetricsWriter.others`, in the chief process only."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step; names are TensorBoard's tags, such as "train/loss"."""

    def close(self) -> None:
        """Writes what is buffered; nothing follows."""


class Events:
    """Writes TensorBoard's events.

    Args:
      folder: the folder for the events.
      restored_step: the step that the run resumes from.
    """

    def __init__(self, folder: str, restored_step: int):
        storage.make_folder(folder)
        self._file = tf.io.TFRecordWriter(_next_file(folder))
        self._write(file_version="brain.Event:2")
        # Makes TensorBoard drop an earlier process's records of steps that will be repeated.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=restored_step + 1, session_log=start)
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars by tag."""
        entries = [
            summary_pb2.Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
        ]
        self._add(step, summary_pb2.Summary(value=entries))

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Adds a picture."""
        image = summary_pb2.Summary.Image(encoded_image_string=png)
        value = summary_pb2.Summary.Value(tag=tag, image=image)
        self._add(step, summary_pb2.Summary(value=[value]))

    def text(self, tag: str, value: str) -> None:
        """Adds a text, shown verbatim."""
        metadata = summary_pb2.SummaryMetadata(
            plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        )
        summary = summary_pb2.Summary()
        entry = summary.value.add(tag=tag, metadata=metadata)
        entry.tensor.dtype = 7
        entry.tensor.string_val.append(f"```\n{value}\n```".encode())
        entry.tensor.tensor_shape.dim.add(size=1)
        self._add(0, summary)

    def settings(self, values: Mapping[str, Any]) -> None:
        """Fills the run's row of the HParams tab.

        Args:
          values: name -> setting; other types than numbers, booleans and strings are shown as text.
        """
        plain = {n: v if isinstance(v, bool | int | float) else str(v) for n, v in values.items()}
        self._add(0, hparams_pb(plain))

    def flush(self) -> None:
        """Writes what is buffered."""
        self._file.flush()

    def close(self) -> None:
        """Like `flush`; nothing can be added afterwards."""
        self._file.close()

    def _add(self, step, summary):
        self._write(step=step, summary=summary)

    def _write(self, **parts):
        event = event_pb2.Event(wall_time=time.time(), **parts)
        self._file.write(event.SerializeToString())


def _next_file(folder: str) -> str:
    """A path behind those of all earlier files of a folder, as TensorBoard reads them by name.

    Names begin with the second of the file's start, which is moved on where the machine's clock has
    gone back, or where two files start in one second.
    """
    seconds = [int(found[1]) for found in map(_NAME.fullmatch, storage.names(folder)) if found]
    second = max([int(time.time()), *(last + 1 for last in seconds)])
    return f"{folder}/events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
