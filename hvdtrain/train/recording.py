"""Recording what a rank does with TensorFlow's profiler, and reading it back as spans."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from hvdtrain.timeline import Span, trace_events

IGNORED = "ThreadpoolListener"  # marks without a length


def start(folder: Path) -> None:
    """Begin to record this process; TensorBoard shows the folder."""
    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
    tf.profiler.experimental.start(str(folder), options)


def write() -> None:
    """End the recording; the folder then holds what TensorBoard's profile plugin shows."""
    tf.profiler.experimental.stop()


def stop(folder: Path, rank: int) -> list[Span]:
    """End the recording, return its spans, and leave them in the folder as `trace.json.gz`."""
    write()
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime_ns)
    found = spans_of(newest)
    write_trace(folder / "trace.json.gz", trace_events(found, rank))
    return found


def spans_of(path: Path) -> list[Span]:
    """Return what the profiler's file holds of this machine's threads, in microseconds since the epoch."""
    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    began_us = _start_ns(space) / 1000
    return [
        Span(
            line.name or str(line.id),
            plane.event_metadata[event.metadata_id].name,
            began_us + line.timestamp_ns / 1000 + event.offset_ps / 1e6,
            event.duration_ps / 1e6,
        )
        for plane in space.planes
        if plane.name.startswith("/host:CPU") or "GPU" in plane.name
        for line in plane.lines
        for event in line.events
        if not plane.event_metadata[event.metadata_id].name.startswith(IGNORED)
    ]


def _start_ns(space: Any) -> int:
    """Return the time of day at which the recording began: ranks of one machine share that clock."""
    for plane in space.planes:
        for stat in plane.stats:
            if plane.stat_metadata[stat.metadata_id].name == "profile_start_time":
                return int(stat.uint64_value or stat.int64_value)
    return 0


def write_trace(path: Path, events: list[dict[str, Any]]) -> None:
    """Write trace events to a compressed file."""
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=5) as file:
        json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Return the trace events of such a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events
