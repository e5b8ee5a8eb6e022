"""What a launch leaves: its output, its exit code, and what its workers measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdtrain.bench.machine import Usage, UsageMeter
from hvdtrain.errors import ExitCode
from hvdtrain.runner import execute

NUM_TAIL_LINES = 12
SIGNALLED = (int(ExitCode.INTERRUPTED), 128 + 15, 128 + 1)


@dataclass(frozen=True)
class Failure:
    """A launch that ended without its numbers, and the end of what it printed."""

    code: int
    tail: str


def execute_logged(command: Sequence[str], environ: Mapping[str, str], log: Path) -> tuple[int, Usage]:
    """Run a command with its output in a file; return its exit code and what the machine did meanwhile.

    Raises:
        KeyboardInterrupt: If a signal stopped it.
    """
    meter = UsageMeter()
    code = execute(into_log(command, log), environ=environ)
    if code in SIGNALLED:
        raise KeyboardInterrupt
    return code, meter.read()


def into_log(command: Sequence[str], log: Path) -> list[str]:
    """Return the command with its output in a file, and without input."""
    return ["bash", "-c", 'exec >"$0" 2>&1 </dev/null; exec "$@"', str(log), *command]


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-NUM_TAIL_LINES:])


def read_rows(directory: Path, num_ranks: int) -> list[dict[str, Any]]:
    """Return what the workers measured, one row per model; none if a rank has left nothing."""
    results = [json.loads(path.read_text()) for path in sorted(directory.glob("result_*.json"))]
    return rows_of(results) if len(results) == num_ranks else []


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per model: all ranks' examples over the slowest rank's time in each turn.

    >>> row = {"model": "cnn", "examples": 100, "seconds": [2.0, 1.0], "cpu_s": 1.0, "steps": 1,
    ...        "warmup_steps": 40, "peak_rss_mb": 5.0}
    >>> rows_of([{"models": [row]}, {"models": [{**row, "seconds": [1.0, 3.0]}]}])[0]["examples_per_s"]
    40.0
    """
    rows = []
    for parts in zip(*(result["models"] for result in results), strict=True):
        slowest = sum(map(max, zip(*(part["seconds"] for part in parts), strict=True)))
        rows.append(
            {
                "model": parts[0]["model"],
                "examples_per_s": sum(part["examples"] for part in parts) / slowest,
                "seconds": [[round(turn, 5) for turn in part["seconds"]] for part in parts],
                "cpu_s": [part["cpu_s"] for part in parts],
                "steps": parts[0]["steps"],
                "warmup_steps": parts[0]["warmup_steps"],
                "peak_rss_mb": [part["peak_rss_mb"] for part in parts],
            }
        )
    return rows
