"""Real launches of the watched model: started by `hvdtrain run`, killed with SIGKILL, resumed, and looked into."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hvdtrain.facts import search_path
from hvdtrain.metrics import EPOCH_FIELDS, read_records
from hvdtrain.plan import Plan
from hvdtrain.rundir import RunDir, find_runs
from hvdtrain.runner import descendants, kill_all
from hvdtrain.train import checkpoint

PROJECT = Path(__file__).parents[2]
TIMEOUT_S = 300


class Launches:
    """One run in a folder of its own, started as often as needed.

    `attempt` counts the starts; the files `seen_<attempt>_<rank>.txt` say what each of them trained on.
    """

    def __init__(self, folder: Path, *, pause_s: float, **blocks: dict[str, Any]) -> None:
        self.folder = folder
        self.attempt = 0
        watch = {"WATCH_DIR": str(folder), "WATCH_PAUSE_S": str(pause_s)}
        config: dict[str, Any] = {
            "name": "watched",
            "model": {"source": "tests.harness.watched:model"},
            "data": {"source": "tests.harness.watched:arrays", "num_examples": 60},
            "training": {"steps_per_execution": 1},
            "optimizer": {"name": "adam", "learning_rate": 0.005},
            "launch": {"env": watch},
        }
        for block, values in blocks.items():
            config[block] = {**config.get(block, {}), **values}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(json.dumps(config))

    @property
    def run(self) -> RunDir:
        return find_runs(self.folder / "runs")[0]

    @property
    def plan(self) -> Plan:
        return Plan.from_json(self.run.plan.read_text())

    def is_finished(self) -> bool:
        return bool(find_runs(self.folder / "runs")) and self.run.finished.exists()

    def start(
        self, ranks: int, kill_when: Callable[[], bool] | None = None, chance: random.Random | None = None
    ) -> bool:
        """Start or resume the run; return whether it was killed before it ended.

        Args:
            ranks: How many.
            kill_when: Asked again and again.
            chance: Chooses who is killed: one rank, or everything at once.
        """
        deadline = time.monotonic() + TIMEOUT_S
        with self._process(ranks) as process:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    kill_all({process.pid, *descendants(process.pid)})
                    raise TimeoutError(f"{self.folder}: attempt {self.attempt} did not end")
                if kill_when is not None and kill_when() and kill(process.pid, chance or random.Random(0)):
                    process.wait(timeout=TIMEOUT_S)
                    return not self.is_finished()
                time.sleep(0.02)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {self.output()[-3000:]}")
        return False

    def call(self, ranks: int) -> tuple[int, str]:
        """Start or resume the run; return its exit code and what it said."""
        with self._process(ranks) as process:
            return process.wait(timeout=TIMEOUT_S), self.output()

    def _process(self, ranks: int) -> subprocess.Popen[bytes]:
        self.attempt += 1
        (self.folder / "attempt").write_text(f"{self.attempt:03d}")
        resume = ["--resume"] if find_runs(self.folder / "runs") else []
        command = [sys.executable, "-m", "hvdtrain", "run", "config.yaml", "--ranks", str(ranks), *resume]
        settings = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        environ = {**os.environ, **settings, "PATH": search_path(), "PYTHONPATH": str(PROJECT)}
        with open(self._output, "wb") as output:
            return subprocess.Popen(command, cwd=self.folder, env=environ, stdout=output, stderr=output)

    @property
    def _output(self) -> Path:
        return self.folder / f"output_{self.attempt:03d}.txt"

    def output(self) -> str:
        """Return what the last start has said."""
        return self._output.read_text(errors="replace")

    def iterations(self) -> list[int]:
        """Return the optimizer's counts before the steps that rank 0 has begun in this attempt."""
        file = self.folder / f"seen_{self.attempt:03d}_0.txt"
        return [int(line.split()[0]) for line in file.read_text().splitlines()] if file.exists() else []

    def seen(self) -> dict[int, list[int]]:
        """Return, for each step of the run, the examples of the last attempt that did it, of all ranks together."""
        attempts: dict[int, dict[str, list[int]]] = {}
        for file in sorted(self.folder.glob("seen_*.txt")):
            attempt = file.stem.split("_")[1]
            for line in file.read_text().splitlines():
                step, *numbers = map(int, line.split())
                attempts.setdefault(step, {}).setdefault(attempt, []).extend(numbers)
        return {step: by_attempt[max(by_attempt)] for step, by_attempt in sorted(attempts.items())}

    def digest(self) -> str:
        """Return SHA-256 over all that the last checkpoint holds, and over the logs of every epoch."""
        found, _ = checkpoint.load_newest(self.run.checkpoints)
        assert found is not None
        digest = hashlib.sha256()
        for name, array in found.arrays.items():
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        epochs = {record["epoch"]: record for record in read_records(self.run.metrics) if record["kind"] == "epoch"}
        for epoch, record in sorted(epochs.items()):
            values = {name: value for name, value in record.items() if name not in EPOCH_FIELDS}
            digest.update(json.dumps([epoch, values], sort_keys=True).encode())
        return digest.hexdigest()

    def resumed_at(self) -> list[tuple[int, int]]:
        """Return (epochs, steps) that were done at each start."""
        starts = [record for record in read_records(self.run.metrics) if record["kind"] == "start"]
        return [(record["initial_epoch"], record["initial_steps"]) for record in starts]


def kill(pid: int, chance: random.Random) -> bool:
    """Kill one rank, or everything, with SIGKILL; return False if no rank is alive any more."""
    below = descendants(pid)
    ranks = sorted(child for child in below if is_rank(child))
    if not ranks:
        return False
    kill_all({chance.choice(ranks)} if chance.random() < 0.5 else {pid, *below})
    return True


def is_rank(pid: int) -> bool:
    try:
        program, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"python" in program and b"hvdtrain.train" in arguments
