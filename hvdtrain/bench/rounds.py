"""Round by round through launches or turns in rotated order: raw rows to a file, progress with the remaining time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hvdtrain.bench.arms import Arm
from hvdtrain.bench.launch import Failure
from hvdtrain.bench.machine import Usage, UsageMeter
from hvdtrain.bench.statistics import rotated
from hvdtrain.bench.task import Task
from hvdtrain.bench.turns import Contender
from hvdtrain.facts import Facts
from hvdtrain.signals import interruptible

Launch = Callable[[], tuple[list[dict[str, Any]] | Failure, Usage]]


class Ledger:
    """All rows so far, each on disk as soon as it is known.

    Args:
        path: JSON Lines file that rows are appended to; None keeps them in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(row)
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def run_rounds(num_rounds: int, launches: dict[str, tuple[str, Launch]], ledger: Ledger) -> bool:
    """Start every launch once per round, in another order each round; return whether the user let it finish.

    Args:
        num_rounds: How often.
        launches: Name -> (arm, how to start it).
        ledger: Where rows go.
    """
    began = time.monotonic()
    total = num_rounds * len(launches)
    try:
        for number in range(num_rounds):
            for place, name in enumerate(rotated(list(launches), number)):
                done = number * len(launches) + place
                _say(f"round {number + 1}/{num_rounds}: {name}{_remaining(done, total, time.monotonic() - began)}")
                arm, launch = launches[name]
                _keep(ledger, number, arm, name, *launch())
    except KeyboardInterrupt:
        _say("stopped; what follows is from the launches that ended")
        return False
    return True


def run_turns(
    num_rounds: int, entries: Sequence[tuple[Arm, Task]], facts: Facts, num_ranks: int, ledger: Ledger
) -> bool:
    """Launch every arm once per round and let them take turns; return whether the user let it finish.

    Args:
        num_rounds: How often.
        entries: The arms and what each does; all of them the same models and turns.
        facts: The machine.
        num_ranks: Of the benchmark.
        ledger: Where rows go.
    """
    began = time.monotonic()
    try:
        with interruptible():
            for number in range(num_rounds):
                _say(f"round {number + 1}/{num_rounds}{_remaining(number, num_rounds, time.monotonic() - began)}")
                meter = UsageMeter()
                with contextlib.ExitStack() as stack:
                    outcomes = _run_round(number, entries, facts, num_ranks, stack)
                usage = meter.read()
                for name, outcome in outcomes.items():
                    _keep(ledger, number, name, name, outcome, usage)
    except KeyboardInterrupt:
        _say("stopped; what follows is from the rounds that ended")
        return False
    return True


def _run_round(
    number: int, entries: Sequence[tuple[Arm, Task]], facts: Facts, num_ranks: int, stack: contextlib.ExitStack
) -> dict[str, list[dict[str, Any]] | Failure]:
    contenders = {}
    for arm, task in entries:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="hvdtrain-bench-"))
        contenders[arm.name] = Contender(arm, dataclasses.replace(task, directory=directory), facts, num_ranks)
        stack.callback(contenders[arm.name].end)
    outcomes: dict[str, list[dict[str, Any]] | Failure] = {}
    order = rotated(list(contenders), number)
    while order:
        for name in order:
            if not contenders[name].run():
                outcomes[name] = contenders[name].outcome()
        order = [name for name in reversed(order) if name not in outcomes]
    return outcomes


def _keep(
    ledger: Ledger, number: int, arm: str, name: str, found: list[dict[str, Any]] | Failure, usage: Usage
) -> None:
    common = {
        "round": number,
        "arm": arm,
        "launch": name,
        "time": round(time.time(), 1),
        **{f"launch_{key}" if key == "seconds" else key: value for key, value in dataclasses.asdict(usage).items()},
        "is_disturbed": usage.is_disturbed,
    }
    if isinstance(found, Failure):
        _say(f"  {name} FAILED with exit code {found.code}:\n{found.tail}")
        ledger.add({**common, "exit_code": found.code, "tail": found.tail})
        return
    for row in found:
        ledger.add({**common, **row})
    _say(f"  {name}: " + "; ".join(_short(row) for row in found))


def _short(row: dict[str, Any]) -> str:
    if "examples_per_s" in row:
        return f"{row['model']} {row['examples_per_s']:,.0f}/s"
    return f"{row['model']} {row['first_step_s']:.2f} s"


def _remaining(done: int, total: int, elapsed_s: float) -> str:
    """Return how long the rest takes if it goes on as before; nothing is known before the first launch has ended."""
    if done == 0:
        return ""
    left_s = elapsed_s / done * (total - done)
    return f" (about {left_s / 60:.1f} min left)" if left_s >= 60 else f" (about {left_s:.0f} s left)"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
