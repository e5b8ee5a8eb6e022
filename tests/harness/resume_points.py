"""Interrupt training at a random (epoch, step), go on from the checkpoint: is every later step the same, bit by bit?

Compared after every step: SHA-256 over weights, statistics, optimizer slots, random states, metric totals and the
examples of the step; and the logs of every epoch. `python -m tests.harness.resume_points [--cases N]`; the control is
Keras's BackupAndRestore with `save_freq`, held to the same comparison.
"""

import functools
import gc
import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from hvdtrain.config import Config
from hvdtrain.facts import assumed_facts
from hvdtrain.plan import Plan, make_plan
from hvdtrain.rundir import RunDir
from hvdtrain.train import background, compat, trainer
from hvdtrain.train.comm import SoloComm
from hvdtrain.train.compat import to_array
from hvdtrain.train.console import Console
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.examples import examples_of
from hvdtrain.train.job import Job, prepare
from hvdtrain.train.state import named_variables
from tests.harness import rows, watched

EPOCHS = 3
Position = tuple[int, int]  # epoch, steps of it

# name -> blocks of the configuration that differ from the first one
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "adam": {},
    "sgd_warm_up_cosine": {
        "optimizer": {"name": "sgd", "momentum": 0.9, "schedule": "cosine", "warmup_epochs": 1, "learning_rate": 0.01}
    },
    "ema": {"optimizer": {"name": "adamw", "args": {"use_ema": True, "ema_overwrite_frequency": 5}}},
    "accumulated": {"training": {"gradient_accumulation_steps": 2}},
    "executions_of_2": {"training": {"steps_per_execution": 2}},
    "padded": {"data": {"remainder": "pad"}},
    "mixed_float16": {"training": {"precision": "mixed_float16"}, "optimizer": {"learning_rate": 0.002}},
    "in_steps": {"training": {"epochs": None, "steps": 17}},
    "divided": {"data": {"epoch_splitting": "divide"}},
    "nadam": {"optimizer": {"name": "nadam", "clip": 0.5}},
}


class CutOffError(Exception):
    """Raised where training is cut off."""


class Watcher(keras.callbacks.Callback):
    """Note the state after each step that trained; cut training off at one of them."""

    def __init__(self, stop_at: Position | None = None) -> None:
        super().__init__()
        self._stop_at = stop_at
        self._epoch = 0
        self.states: dict[Position, str] = {}
        self.logs: dict[int, dict[str, float]] = {}
        self.numbers: dict[Position, list[int]] = {}

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        numbers = watched.SEEN[:]
        watched.SEEN.clear()
        if not numbers:
            return  # passed over
        at = (self._epoch, min(batch + 1, self.params["steps"]))
        self.numbers[at] = numbers
        self.states[at] = state_of(self.model, numbers)
        if at == self._stop_at:
            raise CutOffError

    def on_epoch_end(self, epoch, logs=None):
        self.logs[epoch] = dict(logs or {})


def state_of(model: keras.Model, numbers: list[int]) -> str:
    digest = hashlib.sha256(np.asarray(numbers).tobytes())
    metrics = [variable for metric in compat.metric_leaves(model) for variable in metric.variables]
    for name, variable in [*named_variables(model).items(), *((metric.path, metric) for metric in metrics)]:
        digest.update(name.partition("/")[0].encode() + np.ascontiguousarray(to_array(variable)).tobytes())
    return digest.hexdigest()


def plan_of(variant: str, every_steps: int | None) -> Plan:
    blocks: dict[str, Any] = {
        "model": {"source": "tests.harness.watched:model"},
        "data": {"source": "tests.harness.watched:arrays", "num_examples": 60},
        "training": {"epochs": EPOCHS, "global_batch_size": 8, "steps_per_execution": 1},
        "optimizer": {"name": "adam", "learning_rate": 0.005},
        "checkpoint": {"every_steps": every_steps},
        "sync": {"check_every_steps": None},
        "launch": {"num_ranks": 1, "strategy": "horovod"},
    }
    for block, values in VARIANTS[variant].items():
        blocks[block] = {**blocks.get(block, {}), **values}
    config = Config(name=variant, metrics=["accuracy", "sparse_categorical_crossentropy"], **blocks)
    return make_plan(config, assumed_facts())


def job_of(plan: Plan, folder: Path) -> Job:
    return Job(plan, RunDir(folder), Path(__file__).parent, SoloComm(), Console(None, has_bar=False))


def watch(watcher: Watcher, work: Any) -> Watcher:
    """Train under the eyes of a watcher; being cut off is no error."""
    keras.backend.clear_session()
    gc.collect()
    watched.SEEN.clear()
    watched.HOOKS[:] = [watcher]
    try:
        work()
    except CutOffError:
        background.finish_all(60)  # as a process does that ends by an exception
    finally:
        watched.HOOKS.clear()
        keras.mixed_precision.set_dtype_policy("float32")
    return watcher


@functools.cache
def uninterrupted(variant: str) -> Watcher:
    with tempfile.TemporaryDirectory() as folder:
        return watch(Watcher(), lambda: trainer.train(job_of(plan_of(variant, None), Path(folder))))


def resumed(variant: str, seed: int) -> dict[str, Any]:
    """Cut training off somewhere, go on, and compare with the training that was not cut off."""
    whole = uninterrupted(variant)
    chance = random.Random(f"{variant}{seed}")
    stop_at = chance.choice(list(whole.states)[:-1])
    unit = 2 if variant in ("accumulated", "executions_of_2") else 1
    plan = plan_of(variant, unit * chance.randint(1, 3))
    with tempfile.TemporaryDirectory() as folder:
        watch(Watcher(stop_at), lambda: trainer.train(job_of(plan, Path(folder))))
        saved = sorted(path.name for path in (Path(folder) / "checkpoints").glob("step_*"))
        again = watch(Watcher(), lambda: trainer.train(job_of(plan, Path(folder))))
    return {
        "stopped_at": stop_at,
        "resumed_at": saved[-1] if saved else None,
        "steps_after": len(again.states),
        "equal": is_equal(whole, again),
    }


def is_equal(whole: Watcher, again: Watcher) -> bool:
    """Tell whether the resumed part holds exactly the last steps of the whole, and its epochs the same logs."""
    last = list(whole.states.items())[-len(again.states) :]
    same_logs = all(whole.logs[epoch] == logs for epoch, logs in again.logs.items())
    return bool(again.states) and last == list(again.states.items()) and same_logs


def keras_backup(seed: int) -> dict[str, Any]:
    """The control: Keras's own way to go on, interrupted in the middle of an epoch."""
    whole = uninterrupted("adam")
    chance = random.Random(seed)
    stop_at = chance.choice([at for at in whole.states if 2 <= at[1] <= 6])
    plan = plan_of("adam", None)

    def train(folder: str) -> None:
        job = job_of(plan, Path(folder))
        data, model = prepare(job)
        batches = examples_of(job, data).batches
        assert isinstance(batches, EpochBatches)
        backup = keras.callbacks.BackupAndRestore(folder, save_freq=chance.randint(1, 2), delete_checkpoint=False)
        model.fit(batches.dataset(), epochs=EPOCHS, verbose=0, callbacks=[trainer.TellEpoch(batches), backup])

    with tempfile.TemporaryDirectory() as folder:
        watch(Watcher(stop_at), lambda: train(folder))
        again = watch(Watcher(), lambda: train(folder))
    before = [n for at, numbers in whole.numbers.items() if at <= stop_at and at[0] == stop_at[0] for n in numbers]
    after = [n for at, numbers in again.numbers.items() if at[0] == stop_at[0] for n in numbers]
    twice = len(before + after) - len({*before, *after})
    return {"stopped_at": stop_at, "seen_twice": twice, "equal": is_equal(whole, again)}


def all_cases(number: int) -> list[dict[str, Any]]:
    names = list(VARIANTS)
    return [{"variant": names[i % len(names)], "seed": i} for i in range(number)]


def main() -> None:
    number = rows.options(200).cases
    found = rows.run_missing(rows.RESULTS / "resume_points.jsonl", all_cases(number), resumed)
    control_file = rows.RESULTS / "resume_points_control.jsonl"
    control = rows.run_missing(control_file, [{"seed": i} for i in range(max(1, number // 10))], keras_backup)
    print(f"{sum(row['equal'] for row in found)} of {len(found)} equal")
    print(f"control, Keras BackupAndRestore: {sum(row['equal'] for row in control)} of {len(control)} equal")


if __name__ == "__main__":
    main()
