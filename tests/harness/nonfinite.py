"""NaN or infinity in any rank, tensor or step: all ranks stop at one step. `python -m tests.harness.nonfinite`.

A case is a number: it decides the optimizer, rank, step, value, and whether the value gets into the input, a
gradient, a weight, a slot or a statistic. Every 11th is a control without the checks: it must leave a poisoned
checkpoint behind.
"""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import OutOfSyncError
from hvdtrain.train import checkpoint
from hvdtrain.train.callbacks import Finite, Saver, Setup, SyncProof
from hvdtrain.train.comm import Comm
from tests.harness import in_ranks
from tests.harness.trainee import KINDS, ROWS, STEPS, Trainee, set_element

NUM_CASES = 200 + 20
CONTROL_EVERY = 11
CONTROL = 32  # one of those that poison rank 0's checkpoint
VALUES = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
PLACES = ("input", "gradient", "weight", "slot", "statistic")
SAVE_EVERY = 2


class Poison:
    """Adds a bad value to one gradient of one step, before anything of the product sees it."""

    def __init__(self, optimizer: Any) -> None:
        self.step, self.place = tf.Variable(0, dtype=tf.int64), tf.Variable(0)
        self.value = tf.Variable(0.0)
        poison = self
        inner = type(optimizer)

        def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
            is_now = self.iterations.value + 1 == poison.step
            bad = [tf.where(is_now & (poison.place == i), spoilt(g, poison.value), g) for i, g in enumerate(grads)]
            return inner.apply(self, bad, trainable_variables)

        optimizer.__class__ = type(inner.__name__, (inner,), {"apply": apply, "__module__": inner.__module__})


def spoilt(gradient: tf.Tensor, value: tf.Variable) -> tf.Tensor:
    """Return a gradient whose first element has the value."""
    rest = tf.reshape(gradient, [-1])[1:]
    return tf.reshape(tf.concat([value[None], rest], 0), gradient.shape)


class Fault(keras.callbacks.Callback):
    """What a case does."""

    def __init__(self, comm: Comm, trainee: Trainee, poison: Poison, number: int) -> None:
        super().__init__()
        random = np.random.default_rng(number)
        self._comm, self._trainee, self._poison = comm, trainee, poison
        self.rank = int(random.integers(comm.size))
        self.value = list(VALUES)[random.integers(len(VALUES))]
        self.place = PLACES[random.integers(len(PLACES))]
        executions = STEPS // trainee.steps_per_execution
        self.step = int(random.integers(1, STEPS + 1))
        if self.place in PLACES[2:]:  # only between two executions
            self.step = 1 + int(random.integers(executions)) * trainee.steps_per_execution
        self.random = random
        self.name = self._choose()

    def _choose(self) -> str:
        weights = [variable.path for variable in self._trainee.model.trainable_variables]
        statistics = [name for name in self._trainee.shared() if "moving_" in name]
        if self.place == "input":
            return ""
        if self.place == "gradient":
            self.index = int(self.random.integers(len(weights)))
            return f"the gradient of {weights[self.index]}"
        slots = [
            name
            for name, variable in self._trainee.shared().items()
            if name not in weights + statistics and "float" in variable.dtype
        ]
        names = {"weight": weights, "slot": slots, "statistic": statistics}[self.place]
        return str(names[self.random.integers(len(names))])

    def x(self) -> np.ndarray:
        """Return this rank's data."""
        x = self._trainee.x.copy()
        if self.place == "input" and self._comm.rank == self.rank:
            row = (self.step - 1) * ROWS + int(self.random.integers(ROWS))
            x[row, self.random.integers(6)] = VALUES[self.value]
        return x

    def on_train_begin(self, logs: Any = None) -> None:
        is_here = self.place == "gradient" and self._comm.rank == self.rank
        self._poison.step.assign(self.step if is_here else 0)
        if is_here:
            self._poison.place.assign(self.index)
            self._poison.value.assign(VALUES[self.value])

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch + 1 == self.step and self.place in PLACES[2:] and self._comm.rank == self.rank:
            variable = self._trainee.shared()[self.name]
            element = int(self.random.integers(np.prod(variable.shape, dtype=int)))
            set_element(variable, element, lambda array: array.fill(VALUES[self.value]))


def run_case(comm: Comm, trainee: Trainee, poison: Poison, folder: Path, number: int) -> dict:
    """Return what became of one bad value."""
    is_control = number % CONTROL_EVERY == CONTROL_EVERY - 1
    fault = Fault(comm, trainee, poison, number)
    proof = SyncProof(comm, 4)
    prove = None if is_control else proof.check
    saver = Saver(comm, folder / str(number), every_steps=SAVE_EVERY, keep=STEPS, prove=prove)
    checks = [] if is_control else [Finite(comm), proof]
    code, caught = 0, ""
    try:
        trainee.fit([Setup(comm), fault, *checks, saver], fault.x())
    except OutOfSyncError as error:
        code, caught = int(error.exit_code), str(error)
    everybody = comm.gather_json([code, caught], name="caught")
    written = poisoned_checkpoints(folder / str(number)) if comm.rank == 0 else []
    poisoned = comm.gather_json(written, name="poisoned")[0]
    shutil.rmtree(folder / str(number), ignore_errors=True)
    found = int((re.findall(r"at step (\d+)", caught) or [0])[0])
    if is_control:
        outcome, is_right = ("control: poisoned", True) if poisoned else ("control: harmless", True)
        is_right = is_right and not caught
    else:
        outcome, is_right = "stopped", not poisoned and is_rightly_stopped(fault, code, caught, found, trainee)
    return {
        "case": number, "place": fault.place, "name": fault.name, "value": fault.value, "rank": fault.rank,
        "step": fault.step, "found": found, "outcome": outcome,
        "ok": is_right and all(entry == everybody[0] for entry in everybody),
    }  # fmt: skip


def is_rightly_stopped(fault: Fault, code: int, caught: str, found: int, trainee: Trainee) -> bool:
    """Tell whether code, rank, tensor and step are the right ones."""
    if code != 70 or f"on rank {fault.rank}" not in caught:
        return False
    if fault.place in ("input", "gradient"):
        return found == fault.step and (fault.place == "input" or f"{fault.name} on rank {fault.rank}" in caught)
    # A slot may not be used at once, and an infinite one may freeze a weight: then the next proof finds it.
    return found >= fault.step and fault.name in caught


def poisoned_checkpoints(root: Path) -> list[str]:
    """Return the checkpoints that hold a value which is not finite, without the product's own look."""
    found = []
    for path in checkpoint.checkpoints(root):
        arrays = checkpoint.load(path).arrays.items()
        if not all(np.isfinite(array).all() for name, array in arrays if not name.startswith("metrics/")):
            found.append(path.name)
    return found


def make(comm: Comm, kind: str) -> tuple[Trainee, Poison]:
    """Return a trainee with its poison."""
    poisons: list[Poison] = []
    return Trainee(comm, kind, lambda optimizer: poisons.append(Poison(optimizer))), poisons[0]


def run(comm: Comm, numbers: list[int], add: Any) -> None:
    """Run cases on this rank."""
    trainees: dict[str, tuple[Trainee, Poison]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            kind = list(KINDS)[number % len(KINDS)]
            trainees[kind] = trainees.get(kind) or make(comm, kind)
            add(run_case(comm, *trainees[kind], Path(folder), number))


if __name__ == "__main__":
    in_ranks.main("tests.harness.nonfinite", num_cases=NUM_CASES, size=2, reduction="shared_memory", run=run)
