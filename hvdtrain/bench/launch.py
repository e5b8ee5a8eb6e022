"""Starting one arm once, seeing it through, and reading what its workers measured."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdtrain.bench.arms import Arm, command_of
from hvdtrain.bench.machine import Usage, UsageMeter
from hvdtrain.bench.task import Task
from hvdtrain.errors import ExitCode
from hvdtrain.facts import Facts
from hvdtrain.runner import execute

NUM_TAIL_LINES = 12
SIGNALLED = (int(ExitCode.INTERRUPTED), 128 + 15, 128 + 1)


@dataclass(frozen=True)
class Failure:
    """A launch that ended without its numbers, and the end of what it printed."""

    code: int
    tail: str


def launch_arm(arm: Arm, task: Task, facts: Facts, num_ranks: int) -> tuple[list[dict[str, Any]] | Failure, Usage]:
    """Run one arm; return one row per model, or why there are none.

    Args:
        arm: How to start it.
        task: What its workers do; the directory is chosen here.
        facts: The machine.
        num_ranks: Processes to start, where the arm has several.

    Raises:
        KeyboardInterrupt: If the user stopped it.
    """
    with tempfile.TemporaryDirectory(prefix="hvdtrain-bench-") as directory:
        task = dataclasses.replace(task, directory=directory)
        task.write()
        command, environ = command_of(arm, str(task.path), facts, num_ranks)
        code, usage = execute_logged(command, environ, Path(directory, "log"))
        results = [json.loads(path.read_text()) for path in sorted(Path(directory).glob("result_*.json"))]
        if code or len(results) != task.num_ranks:
            return Failure(code, tail(Path(directory, "log"))), usage
    return rows_of(results), usage


def execute_logged(command: Sequence[str], environ: Mapping[str, str], log: Path) -> tuple[int, Usage]:
    """Run a command with its output in a file; return its exit code and what the machine did meanwhile.

    Raises:
        KeyboardInterrupt: If a signal stopped it.
    """
    meter = UsageMeter()
    into_log = ["bash", "-c", 'exec >"$0" 2>&1 </dev/null; exec "$@"', str(log)]
    code = execute([*into_log, *command], environ=environ)
    if code in SIGNALLED:
        raise KeyboardInterrupt
    return code, meter.read()


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-NUM_TAIL_LINES:])


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per model: all ranks' examples over the slowest rank's time.

    >>> row = {"model": "cnn", "examples": 100, "seconds": 2.0, "cpu_s": 1.0, "steps": 1,
    ...        "warmup_steps": 40, "peak_rss_mb": 5.0}
    >>> rows_of([{"models": [row]}, {"models": [{**row, "seconds": 4.0}]}])[0]["examples_per_s"]
    50.0
    """
    rows = []
    for parts in zip(*(result["models"] for result in results), strict=True):
        slowest = max(part["seconds"] for part in parts)
        rows.append(
            {
                "model": parts[0]["model"],
                "examples_per_s": sum(part["examples"] for part in parts) / slowest,
                "seconds": [part["seconds"] for part in parts],
                "cpu_s": [part["cpu_s"] for part in parts],
                "steps": parts[0]["steps"],
                "warmup_steps": parts[0]["warmup_steps"],
                "peak_rss_mb": [part["peak_rss_mb"] for part in parts],
            }
        )
    return rows
