"""A user's folder with a configuration and code of their own, real commands in it, and how they end."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hvdtrain.facts import gather_facts, search_path
from hvdtrain.launch import LAUNCHERS
from hvdtrain.metrics import read_records
from hvdtrain.rundir import RunDir, find_runs
from tests.conftest import PROJECT

TIMEOUT_S = 300

CONFIG: dict[str, Any] = {
    "name": "demo",
    "model": {"source": "my_code:model"},
    "data": {"source": "my_code:arrays", "num_examples": 192},
    "training": {"epochs": 5, "global_batch_size": 32},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "sync": {"check_every_steps": 2},
    "launch": {"num_ranks": 2},
}

# A user's module. What fault.json asks for happens on one rank in the middle of one epoch.
MY_CODE = """
import json, os, sys, time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def rank():
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))


def slow_fsync(descriptor, fsync=os.fsync):
    time.sleep(0.4)
    fsync(descriptor)


if Path("slow_disk").exists():
    os.fsync = slow_fsync


def fault():
    file = Path("fault.json")
    wanted = json.loads(file.read_text()) if file.exists() else {}
    return wanted if wanted.get("rank") == rank() else {}


def draw(count, seed):
    random = np.random.default_rng(seed)
    y = random.integers(4, size=count)
    x = np.eye(8)[y] + random.normal(scale=0.3, size=(count, 8))
    return x.astype("float32"), y.astype("int64")


def arrays():
    print("hello from my own code")
    return draw(192, 1), draw(50, 2)


def broken_arrays():
    raise LookupError("my own disk is empty")


def nan_arrays():
    (x, y), test = arrays()
    x[17, 3] = np.nan
    return (x, y), test


def dataset():
    def look(i):
        if fault().get("do") == "pipeline" and i == 101:
            raise ValueError("picture 101 is damaged")
        return i

    x, y = draw(192, 1)
    numbers = tf.data.Dataset.range(192).map(lambda i: tf.ensure_shape(tf.numpy_function(look, [i], tf.int64), ()))
    return numbers.map(lambda i: (tf.gather(x, i), tf.gather(y, i))), tf.data.Dataset.from_tensor_slices(draw(50, 2))


class Fault(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        wanted = fault()
        if batch != 2 or self.epoch != wanted.get("epoch"):
            return
        if wanted["do"] == "raise":
            raise ArithmeticError("a bad day in epoch 3")
        if wanted["do"] == "exit":
            sys.exit(7)
        if wanted["do"] == "tamper":
            kernel = self.model.layers[0].kernel
            kernel.assign(kernel + 1e-7)
        if wanted["do"] == "wait":
            while len(list(Path("runs").glob("*/*/checkpoints/step_*"))) < min(self.epoch - 1, 3):
                time.sleep(0.01)  # rank 0 saves while training goes on
            Path(f"waiting.{os.getpid()}").touch()
            time.sleep(600)


class Net(keras.Sequential):
    def fit(self, *args, callbacks=(), **kwargs):
        return super().fit(*args, callbacks=[*callbacks, Fault()], **kwargs)


def model():
    return Net([
        layers.Input((8,)),
        layers.Dense(16, name="hidden"),
        layers.BatchNormalization(),
        layers.Activation("relu"),
        layers.Dropout(0.1),
        layers.Dense(4, activation="softmax"),
    ])
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float
    ended: float = dataclasses.field(default_factory=time.time)


class Workdir:
    """A user's folder with demo.yaml and my_code.py."""

    def __init__(self, path: Path, **changes: dict[str, Any]) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        config = {key: {**CONFIG[key], **changes[key]} if key in changes else CONFIG[key] for key in CONFIG}
        (path / "demo.yaml").write_text(json.dumps(config))
        (path / "my_code.py").write_text(MY_CODE)

    def fault(self, do: str, *, rank: int = 1, epoch: int = 3) -> None:
        (self.path / "fault.json").write_text(json.dumps({"do": do, "rank": rank, "epoch": epoch}))

    def repair(self) -> None:
        (self.path / "fault.json").unlink(missing_ok=True)
        for file in self.path.glob("waiting.*"):
            file.unlink()

    def hvdtrain(self, *arguments: str) -> Outcome:
        return self.call(sys.executable, "-m", "hvdtrain", *arguments)

    def call(self, *command: str) -> Outcome:
        began = time.monotonic()
        result = subprocess.run(
            command, cwd=self.path, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        return Outcome(result.returncode, result.stdout, result.stderr, time.monotonic() - began)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hvdtrain", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.path, env=environment(), stdout=pipe, stderr=pipe, text=True)

    def stop_in_the_middle(self, stop: Callable[[subprocess.Popen[str], int], None], *arguments: str) -> Outcome:
        """Start a command, wait until the faulty rank waits, call `stop` with the process and that rank's id."""
        with self.start(*arguments) as process:
            wait_for(lambda: list(self.path.glob("waiting.*")) or process.poll() is not None, "a rank that waits")
            found = [int(file.suffix[1:]) for file in self.path.glob("waiting.*")]
            began = time.monotonic()
            if found:
                stop(process, found[0])
            out, err = process.communicate(timeout=TIMEOUT_S)
            assert found, err
            return Outcome(process.returncode, out, err, time.monotonic() - began)

    @property
    def run(self) -> RunDir:
        """The newest run."""
        return find_runs(self.path / "runs")[0]

    def processes(self) -> list[str]:
        """Return the command lines of all processes that name this folder."""
        lines = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.path) in line and int(file.parent.name) != os.getpid():
                lines.append(line)
        return lines

    def assert_nothing_is_left(self) -> None:
        wait_for(lambda: not self.processes(), "the end of all processes", timeout_s=20)
        assert not list(self.path.rglob(".*.tmp"))
        assert not list(self.path.rglob(".writing-*"))

    def summary(self, run: RunDir | None = None) -> dict[str, Any]:
        return json.loads((run or self.run).summary.read_text())


def environment() -> dict[str, str]:
    settings = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "TF_CPP_MIN_LOG_LEVEL": "1"}
    return {**os.environ, **settings, "PATH": search_path(), "PYTHONPATH": str(PROJECT)}


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.1)


def mpirun(num_ranks: int, *command: str) -> list[str]:
    facts = gather_facts()
    assert facts.mpi is not None
    return ["mpirun", "-np", str(num_ranks), *LAUNCHERS[facts.mpi].oversubscribe, *command]  # type: ignore[attr-defined]


def records(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_records(run.metrics) if record["kind"] == kind]
