"""Submitting digits to the Slurm of `tests.cluster.slurm`, and waiting for what becomes of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hvdtrain.rundir import RunDir, find_run, read_json
from tests.cluster.slurm import Cluster

PROJECT = Path(__file__).parents[2]
CONFIG = PROJECT / "configs" / "digits_cnn.yaml"
SITE = PROJECT / "configs" / "sites" / "local-cluster.yaml"
PATIENCE_S = 240.0
SHORT = ("--set", "training.epochs=4")
LONG = ("--set", "training.epochs=200")  # for jobs that are ended by their test
# A training that waits after each epoch for as long as a file says, and is soon done once that file is gone.
SLOW_MODEL = """
import contextlib
import time
from pathlib import Path

import keras

from hvdtrain.workshop.models import digits_cnn


def wait(epoch, logs):
    with contextlib.suppress(OSError):
        time.sleep(float(Path(__file__).with_name("pause").read_text()))


class Slow(keras.Sequential):
    def fit(self, *args, callbacks=(), **options):
        return super().fit(*args, callbacks=[*callbacks, keras.callbacks.LambdaCallback(on_epoch_end=wait)], **options)


def build():
    return Slow(digits_cnn().layers)
"""
SLOW_EPOCHS = 24


@dataclass
class Bench:
    """A Slurm and a folder of runs.

    Args:
        cluster: It runs.
        folder: Where jobs are submitted.
    """

    cluster: Cluster
    folder: Path

    def hvdtrain(self, *words: str, code: int | None = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "hvdtrain", *words],
            env={**os.environ, **self.cluster.environment(), **environ},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert code is None or result.returncode == code, result.stdout + result.stderr
        return result

    def submit(self, *words: str, config: Path = CONFIG, **environ: str) -> str:
        """Submit digits, or another configuration, and return the job's id."""
        result = self.hvdtrain("submit", str(config), "--site", str(SITE), *words, code=0, **environ)
        assert result.stdout.strip().isdigit(), result.stdout
        return result.stdout.strip()

    def submit_slow(self, *words: str, pause_s: float = 1.0) -> str:
        """Submit digits with a pause after each epoch, until `hurry`, and return the job's id."""
        self.pause.write_text(str(pause_s))
        return self.submit(*words, config=slow_config(self.folder))

    @property
    def pause(self) -> Path:
        return self.folder / "pause"

    def hurry(self) -> None:
        """Let the slow job train on without pauses."""
        self.pause.unlink()

    def run(self, job: str) -> RunDir:
        return find_run(job, self.folder / "runs")

    def state(self, job: str) -> str:
        command = ("squeue", "--noheader", "--array", f"--jobs={job}", "--states=all", "--format=%T")
        return self.cluster.command(*command).stdout.strip()

    def wait(self, job: str, *states: str) -> str:
        """Wait until a job is in one of these states."""
        end = time.monotonic() + PATIENCE_S
        while (state := self.state(job)) not in states:
            assert time.monotonic() < end, f"job {job} is {state}:\n{self.log(job)}"
            time.sleep(0.3)
        return state

    def wait_for_epoch(self, job: str, number: int = 5) -> None:
        """Wait until training has come so far."""
        end = time.monotonic() + PATIENCE_S
        while self.num_epochs(job) < number:
            state = self.state(job)
            assert time.monotonic() < end, f"job {job} is {state}:\n{self.log(job)}"
            assert state in ("PENDING", "CONFIGURING", "RUNNING"), f"job {job} is {state}:\n{self.log(job)}"
            time.sleep(0.2)

    def num_epochs(self, job: str) -> int:
        """Return how many epochs a job has recorded, over all its starts."""
        metrics = self.run(job).metrics
        return metrics.read_text().count('"kind": "epoch"') if metrics.exists() else 0

    def log(self, job: str) -> str:
        logs = sorted(self.run(job).logs.glob("slurm-*.out"))
        return "\n".join(log.read_text(errors="replace") for log in logs)

    def exit_code(self, job: str) -> str:
        """Return a job's exit code as Slurm writes it, `code:signal`."""
        return self.field(job, "ExitCode")

    def field(self, job: str, name: str) -> str:
        """Return what Slurm says of a job under this name; times are local, as in 2026-01-31T23:59:59."""
        text = self.cluster.command("scontrol", "--oneliner", "show", "job", job).stdout
        return text.partition(f" {name}=")[2].split()[0]

    def why(self, job: str) -> str:
        return json.loads(self.hvdtrain("why", job, "--json").stdout)["name"]

    def digest(self, job: str) -> str:
        run = self.run(job)
        assert run.finished.exists(), self.log(job)
        return read_json(run.summary)["digest"]


def slow_config(folder: Path) -> Path:
    """Write the configuration of the slow training and its model into a folder."""
    text = CONFIG.read_text().replace("hvdtrain.workshop.models:digits_cnn", "slow:build")
    epochs = re.sub(r"(?m)^  epochs: \d+$", f"  epochs: {SLOW_EPOCHS}", text)
    assert epochs != text != CONFIG.read_text()
    (folder / "slow.py").write_text(SLOW_MODEL)
    (folder / "slow.yaml").write_text(epochs)
    return folder / "slow.yaml"


def local_digest(folder: Path, *words: str, config: Path = CONFIG) -> str:
    """Train without a scheduler, and return the digest of the weights."""
    command = [sys.executable, "-m", "hvdtrain", "run", str(config), "--ranks", "2", *words, "--runs", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 0, result.stderr
    summary = next(folder.glob("*/*/summary.json"))
    return json.loads(summary.read_text())["digest"]
