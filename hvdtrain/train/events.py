"""TensorBoard's event files: what an event is made of, the file, and how an earlier start's file is cut.

Written with TensorFlow alone; only hyperparameters need the package `tensorboard`. Nothing here touches a graph, so a
thread may do it beside the training.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.summary_pb2 import Summary, SummaryMetadata
from tensorflow.core.util.event_pb2 import Event, SessionLog

FILES = "events.out.tfevents.*"
FILE_VERSION = "brain.Event:2"
NUM_BUCKETS = 30
HPARAMS = "_hparams_/"  # what the tags of TensorBoard's HParams begin with
_LENGTH = struct.Struct("<Q")
_HEAD_BYTES, _TAIL_BYTES = 12, 4  # of a record: its length with a checksum before it, a checksum after it

_numbers = itertools.count()


class EventFile:
    """A new event file in a folder.

    Args:
        folder: Made if it is not there.
        first_step: Of this start of the run, if it is not the first start: a TensorBoard that is looking drops the
            points from there on, which an earlier start has left.

    Raises:
        tf.errors.OpError: If it cannot be written.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = tf.io.TFRecordWriter(str(folder / name))
        self.write(Event(wall_time=time.time(), file_version=FILE_VERSION))
        if first_step:
            start = SessionLog(status=SessionLog.START)
            self.write(Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, event: Event) -> None:
        """Add an event; it is on its way to the disk after `flush`."""
        self._file.write(event.SerializeToString())

    def flush(self) -> None:
        """Hand what is written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Write the rest."""
        self._file.close()


def scalars(values: Mapping[str, float], describe: Mapping[str, str] | None = None) -> Iterator[Summary.Value]:
    """Yield scalars by tag, with a description where there is one for what the tag begins with."""
    for tag, value in values.items():
        text = next((words for begin, words in (describe or {}).items() if tag.startswith(begin)), "")
        metadata = SummaryMetadata(summary_description=text) if text else None
        yield Summary.Value(tag=tag, simple_value=value, metadata=metadata)


def histogram(tag: str, array: np.ndarray) -> Summary.Value:
    """Return the histogram of an array's finite values: rows of (left, right, count)."""
    values = np.asarray(array, np.float64).reshape(-1)
    values = values[np.isfinite(values)]
    counts, edges = np.histogram(values, bins=NUM_BUCKETS) if len(values) else (np.zeros(0), np.zeros(1))
    buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    return Summary.Value(tag=tag, tensor=tf.make_tensor_proto(buckets, tf.float64), metadata=_metadata("histograms"))


def picture(tag: str, png: bytes, *, width: int, height: int, description: str = "") -> Summary.Value:
    """Return one picture, a PNG file's bytes; width and height in points."""
    metadata = SummaryMetadata(summary_description=description)
    shown = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    return Summary.Value(tag=tag, image=shown, metadata=metadata)


def layers(config_json: str) -> Summary.Value:
    """Return a Keras model's configuration: TensorBoard draws its layers as the conceptual graph."""
    tensor = tf.make_tensor_proto(config_json, tf.string)
    return Summary.Value(tag="keras", tensor=tensor, metadata=_metadata("graph_keras_model", b"1"))


def _metadata(plugin: str, content: bytes = b"") -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))


def has_tensorboard() -> bool:
    """Tell whether the package `tensorboard` is here."""
    return find_spec("tensorboard") is not None


def hyperparameters(values: Mapping[str, bool | int | float | str]) -> Iterator[Summary.Value]:
    """Yield what TensorBoard's HParams must know of a run that begins; runs with equal values share a row there."""
    from tensorboard.plugins.hparams import summary_v2

    text = summary_v2.hparams_pb(dict(values), start_time_secs=time.time()).SerializeToString()
    yield from Summary.FromString(text).value  # tensorboard has classes of its own for the same messages


def session_end(*, is_success: bool) -> Iterator[Summary.Value]:
    """Yield what TensorBoard's HParams must know of a run that has ended."""
    from tensorboard.plugins.hparams import api_pb2, summary

    status = api_pb2.STATUS_SUCCESS if is_success else api_pb2.STATUS_FAILURE
    yield from Summary.FromString(summary.session_end_pb(status, time.time()).SerializeToString()).value


# -- files of earlier starts --------------------------------------------------------------------


def cut(folder: Path, *, last_step: int) -> None:
    """Remove from a folder's event files what comes after a step, and hyperparameters, which are written anew.

    Without a step nothing is left. Each file is replaced as a whole; a torn end, as a killed process leaves it, goes.
    """
    for path in sorted(folder.glob(FILES)):
        if last_step <= 0:
            path.unlink()
            continue
        kept = b"".join(raw for raw, event in records(path.read_bytes()) if _stays(event, last_step))
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(kept)
        temporary.replace(path)


def _stays(event: Event, last_step: int) -> bool:
    has_hparams = any(value.tag.startswith(HPARAMS) for value in event.summary.value)
    return event.step <= last_step and not has_hparams


def records(data: bytes) -> Iterator[tuple[bytes, Event]]:
    """Yield an event file's whole records, each as it stands there and as an event."""
    begin = 0
    while begin + _HEAD_BYTES <= len(data):
        (length,) = _LENGTH.unpack_from(data, begin)
        end = begin + _HEAD_BYTES + length + _TAIL_BYTES
        if end > len(data):
            return
        yield data[begin:end], Event.FromString(data[begin + _HEAD_BYTES : end - _TAIL_BYTES])
        begin = end
