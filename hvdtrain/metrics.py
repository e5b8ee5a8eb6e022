"""What a run records about itself: one JSON object per line in `metrics.jsonl`.

Every record has `schema` (1), `kind` (`start`, `epoch`, `evaluation`, `checkpoint`, `sync`, `end`) and `time`
(seconds since 1970, UTC). Must not import TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1
# What an `epoch` record holds besides the values of loss and metrics.
EPOCH_FIELDS = (
    "schema", "kind", "time", "epoch", "step", "learning_rate", "examples_per_s", "train_s", "evaluation_s",
)  # fmt: skip


def record_line(kind: str, time_s: float, **values: Any) -> str:
    """Return one record as a line of JSON. A value that is not finite becomes null, which JSON can hold.

    >>> record_line("epoch", 12.5, epoch=1, loss=0.25)
    '{"schema": 1, "kind": "epoch", "time": 12.5, "epoch": 1, "loss": 0.25}\\n'
    """
    record = {"schema": SCHEMA, "kind": kind, "time": time_s, **values}
    return json.dumps({key: _finite(value) for key, value in record.items()}) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file; other lines, as a crash leaves them, are passed over. A missing file is empty."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "kind" in record:
            yield record


def last_epoch_metrics(path: Path) -> dict[str, Any]:
    """Return the loss and metrics of the newest epoch; empty if none has ended."""
    epochs = [record for record in read_records(path) if record["kind"] == "epoch"]
    return {name: value for name, value in epochs[-1].items() if name not in EPOCH_FIELDS} if epochs else {}


def append_record(path: Path, line: str) -> None:
    """Add one line in a single write, so that two lines never mix."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)
