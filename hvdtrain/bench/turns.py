"""Arms that take turns: all are launched, and one after another runs for a moment while the others are stopped.

A shared machine is now faster and now slower for minutes. Turns of a second or two meet the same machine, where whole
launches one after another do not. Each turn ends after a number of executions, so whole epochs are measured, with
what happens at their ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from hvdtrain.bench.arms import Arm, command_of
from hvdtrain.bench.launch import Failure, into_log, read_rows, tail
from hvdtrain.bench.task import Task
from hvdtrain.facts import Facts
from hvdtrain.runner import STOP_GRACE_S, descendants, end_group, kill_all

POLL_S = 0.0005  # of ranks, which are stopped most of the time
DRIVER_POLL_S = 0.01  # of the driver, which runs beside the arm that is measured


class Gate:
    """Where one rank says that its turn is over and waits for the next one.

    Args:
        directory: Of the launch.
        rank: This process.
    """

    def __init__(self, directory: Path, rank: int) -> None:
        self._directory = directory
        self._rank = rank
        self._count = 0

    def wait(self) -> None:
        """Return when the driver lets this arm go on."""
        self._count += 1
        place = ready_place(self._directory, self._count, self._rank)
        temporary = place.with_suffix(".tmp")
        temporary.write_text(str(os.getpid()), encoding="utf-8")
        os.rename(temporary, place)
        while not go_place(self._directory, self._count).exists():
            time.sleep(POLL_S)


def ready_place(directory: Path, count: int, rank: int) -> Path:
    """Return the file in which a rank says that it is ready for its turn of this number."""
    return directory / f"ready_{count:05d}_rank_{rank:04d}"


def go_place(directory: Path, count: int) -> Path:
    """Return the file whose being there lets all ranks of a launch have their turn."""
    return directory / f"go_{count:05d}"


class Contender:
    """One arm of one round, from its launch to its numbers.

    Args:
        arm: How it is started.
        task: What its workers do, with a directory of its own.
        facts: The machine.
        num_ranks: Of the benchmark.
    """

    def __init__(self, arm: Arm, task: Task, facts: Facts, num_ranks: int) -> None:
        self._arm, self._task = arm, task
        self._facts, self._num_ranks = facts, num_ranks
        self._directory = Path(task.directory)
        self._log = self._directory / "log"
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> bool:
        """Let it run until it is ready for its next turn, and stop it; return False when it has ended."""
        if self._process is None:
            self._process = self._start()
        else:
            self._send(signal.SIGCONT)
            go_place(self._directory, self._count).touch()
        self._count += 1
        places = [ready_place(self._directory, self._count, rank) for rank in range(self._task.num_ranks)]
        while not all(place.exists() for place in places):
            if self._process.poll() is not None:
                return False
            time.sleep(DRIVER_POLL_S)
        self._send(signal.SIGSTOP)
        return True

    def outcome(self) -> list[dict[str, Any]] | Failure:
        """Return one row per model, or why there are none; the arm has ended."""
        assert self._process is not None
        code = self._process.wait()
        rows = read_rows(self._directory, self._task.num_ranks)
        return Failure(code, tail(self._log)) if code or not rows else rows

    def end(self) -> None:
        """Leave nothing behind, however far it has come."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._send(signal.SIGCONT)
            members = descendants(self._process.pid)
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_GRACE_S)
            kill_all({self._process.pid, *members})
            self._process.wait()
        end_group(self._process.pid)

    def _start(self) -> subprocess.Popen[bytes]:
        self._task.write()
        command, environ = command_of(self._arm, str(self._task.path), self._facts, self._num_ranks)
        return subprocess.Popen(into_log(command, self._log), env=environ, start_new_session=True)

    def _send(self, number: signal.Signals) -> None:
        """Send a signal to the ranks that have said they are ready."""
        for rank in range(self._task.num_ranks):
            place = ready_place(self._directory, self._count, rank)
            if place.exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(place.read_text()), number)
