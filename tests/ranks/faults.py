"""Cases about faults and stopping: flipped bits, values that are not finite, skipped updates, one rank's wish."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import HvdtrainError
from hvdtrain.train import checkpoint
from hvdtrain.train.callbacks import AgreeStop, Finite, Resume, Saver, Setup, SyncProof
from hvdtrain.train.comm import Comm, SoloComm
from hvdtrain.train.compat import to_array
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.data_options import quiet
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.order import Order
from hvdtrain.train.state import restore
from hvdtrain.train.sync import prove_in_sync
from tests.harness import bit_flips, nonfinite
from tests.ranks.semantics import policy


def case_bit_flips(comm: Comm, folder: Path) -> list[dict]:
    """The short form of tests/harness/bit_flips.py; the last one is a control. Tracing a model takes longest."""
    rows: list[dict] = []
    bit_flips.run(comm, [*range(0, 45, 3 if comm.size == 2 else 9), bit_flips.CONTROL], rows.append)
    return rows


def case_nonfinite_anywhere(comm: Comm, folder: Path) -> list[dict]:
    """The short form of tests/harness/nonfinite.py; the last one is a control."""
    rows: list[dict] = []
    nonfinite.run(comm, [*range(2, 32, 3 if comm.size == 2 else 9), nonfinite.CONTROL], rows.append)
    return rows


def case_bfloat16_weights_are_looked_at(comm: Comm, folder: Path) -> str:
    """NumPy counts bfloat16 among no kind of numbers."""
    with policy("bfloat16"):
        model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, name="only")])
    model.compile(distribute(keras.optimizers.SGD(0.1), comm), loss="mse")
    model.layers[0].kernel.assign([[np.inf], [1.0]])
    try:
        prove_in_sync(model, comm, step=1)
    except HvdtrainError as error:
        return str(error)
    return "nothing was raised"


# -- skipping -----------------------------------------------------------------------------------

BATCH = 4


def network(optimizer: keras.optimizers.Optimizer, name: str = "net", **options: Any) -> keras.Model:
    """Dropout is left out: its counter goes on in a step that is skipped."""
    keras.utils.set_random_seed(2)
    layers = [
        keras.layers.Input((6,)),
        keras.layers.Dense(8, name="hidden"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Activation("tanh"),
        keras.layers.Dense(3, activation="softmax", dtype="float32"),
    ]
    model = keras.Sequential(layers, name=name)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", jit_compile=False, **options)
    return model


def examples(comm: Comm, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(50 + comm.rank)
    return random.normal(size=(num_steps, BATCH, 6)).astype("float32"), random.integers(3, size=(num_steps, BATCH))


def batches(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).with_options(quiet())


def everything(model: keras.Model) -> list[str]:
    """Return the bytes of weights, statistics and slots."""
    return [to_array(variable).tobytes().hex() for variable in (*model.variables, *model.optimizer.variables)]


def case_skipped_updates(comm: Comm, folder: Path) -> dict:
    """Bad batches on one rank, against the same training without these batches on any rank; two epochs."""
    bad = {2: 0, 3: comm.size - 1, 9: 0}  # step -> rank
    x, y = examples(comm, 12)
    poisoned = x.copy()
    for step, rank in bad.items():
        if rank == comm.rank:
            poisoned[step, 1, 2] = np.nan if step != 9 else np.inf
    good = [step for step in range(12) if step not in bad]
    other = network(distribute(keras.optimizers.Adam(0.01), comm))
    expected = other.fit(batches(x[good], y[good]), epochs=2, verbose=0, callbacks=[Setup(comm)])
    results: dict[str, Any] = {}
    for per_execution in (1, 4):
        said: list[str] = []
        optimizer = distribute(keras.optimizers.Adam(0.01), comm, on_nonfinite="skip")
        model = network(optimizer, steps_per_execution=per_execution)
        finite = Finite(comm, said.append)
        callbacks = [Setup(comm), finite, SyncProof(comm, 1)]
        history = model.fit(batches(poisoned, y), epochs=2, verbose=0, callbacks=callbacks)
        results[str(per_execution)] = {
            "same": everything(model) == everything(other),
            "loss": [history.history["loss"], expected.history["loss"]],
            "said": said,
            "num_skipped": finite.num_skipped,
            "iterations": int(to_array(model.optimizer.iterations)),
        }
    return results


def case_skipping_every_update(comm: Comm, folder: Path) -> str:
    x, y = examples(comm, 3)
    if comm.rank == 0:
        x[:] = np.nan
    model = network(distribute(keras.optimizers.SGD(0.1), comm, on_nonfinite="skip"))
    return message(lambda: model.fit(batches(x, y), epochs=2, verbose=0, callbacks=[Setup(comm), Finite(comm)]))


def message(action: Callable[[], Any]) -> str:
    try:
        action()
    except HvdtrainError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def message_of_fit(model: keras.Model, data: tf.data.Dataset, callbacks: list[Any]) -> str:
    return message(lambda: model.fit(data, verbose=0, callbacks=callbacks))


def case_skip_refused(comm: Comm, folder: Path) -> dict:
    accumulating = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    return {
        "accumulation": message(lambda: distribute(accumulating, comm, on_nonfinite="skip")),
        "unknown": message(lambda: distribute(keras.optimizers.SGD(0.1), comm, on_nonfinite="ignore")),
    }


def case_nonfinite_with_loss_scaling(comm: Comm, folder: Path) -> dict:
    """Infinite gradients are ordinary there; a statistic or a weight that is not finite is not."""
    x, y = examples(comm, 6)
    results = {}
    with policy("mixed_float16"):
        model = network(distribute(keras.optimizers.SGD(0.1), comm), name="fp16")
    start = initial(model)
    spoilt = {"statistic": model.get_layer("norm").moving_mean, "weight": model.get_layer("hidden").kernel}
    for what in ("gradient", "statistic", "weight"):
        put_back(model, start)
        callbacks: list[Any] = [Setup(comm), Finite(comm), SyncProof(comm, 1)]
        if what == "gradient":
            model.optimizer.dynamic_scale.assign(1e30)
        else:
            callbacks.append(spoiler(spoilt[what], step=3, is_here=comm.rank == comm.size - 1))
        results[what] = message_of_fit(model, batches(x, y), callbacks)
    return results


def initial(model: keras.Model) -> list[np.ndarray]:
    """Return the values of everything, to be put back: building and tracing a model anew takes longest."""
    return [to_array(variable).copy() for variable in (*model.variables, *model.optimizer.variables)]


def put_back(model: keras.Model, arrays: list[np.ndarray]) -> None:
    for variable, array in zip((*model.variables, *model.optimizer.variables), arrays, strict=True):
        variable.assign(array)


def spoiler(variable: keras.Variable, *, step: int, is_here: bool) -> keras.callbacks.Callback:
    """Return a callback that puts a NaN into a variable before a step, counted from 1."""

    def spoil(batch: int, logs: Any) -> None:
        if batch + 1 == step and is_here:
            variable.assign(np.full(variable.shape, np.nan))

    return keras.callbacks.LambdaCallback(on_train_batch_begin=spoil)


def case_nonfinite_alone(comm: Comm, folder: Path) -> dict:
    """One process, as every rank here plays it for itself: the step is found there too, and with XLA.

    An optimizer that is not distributed, as under MirroredStrategy, lets the weights be looked at instead.
    """
    results = {}
    for name, jit_compile in (("plain", False), ("xla", True), ("undistributed", False)):
        x, y = examples(comm, 6)
        x[3, 0, 0] = np.nan
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [keras.layers.Input((6,)), keras.layers.Dense(3, activation="softmax", name="only")], name="alone"
        )
        optimizer = keras.optimizers.Adam(0.1)
        if name != "undistributed":
            optimizer = distribute(optimizer, SoloComm())
        model.compile(optimizer, loss="sparse_categorical_crossentropy", jit_compile=jit_compile)
        callbacks = [Setup(SoloComm()), Finite(SoloComm())]
        results[name] = message_of_fit(model, batches(x, y), callbacks)
    return results


# -- stopping -----------------------------------------------------------------------------------


class StopAt(keras.callbacks.Callback):
    """Wants to stop after some batch of the second epoch, on one rank only."""

    def __init__(self, batch: int | None, *, is_here: bool) -> None:
        super().__init__()
        self._batch, self._is_here, self._epoch = batch, is_here, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._is_here and self._epoch == 1 and batch == self._batch:
            self.model.stop_training = True


STEPS = 8
# name -> optimizer's options, steps per execution, policy, batch of the wish, steps of the second epoch that are done
STOPS: dict[str, tuple[dict[str, Any], int, str, int, int]] = {
    "in mid-epoch": ({}, 1, "float32", 2, 4),
    "by executions": ({}, 2, "float32", 1, 4),
    "last but one": ({}, 1, "float32", 6, 8),
    "last": ({}, 1, "float32", 7, 8),
    "accumulated": ({"gradient_accumulation_steps": 2}, 1, "float32", 2, 4),
    "accumulated, late": ({"gradient_accumulation_steps": 4}, 1, "float32", 3, 8),
    "float16": ({}, 1, "mixed_float16", 2, 4),
}


def fit_epochs(comm: Comm, folder: Path, model: keras.Model, stop: keras.callbacks.Callback | None) -> dict:
    """Train three epochs, from a checkpoint if there is one; return where it ended, and the state."""
    x = np.random.default_rng(1).normal(size=(STEPS * 3 * comm.size, 6)).astype("float32")
    order = Order(len(x), 3 * comm.size, STEPS, 0, comm.rank, comm.size)
    data = EpochBatches((x, np.arange(len(x)) % 3), order)
    found, _ = checkpoint.load_newest(folder)
    proof = SyncProof(comm, 1)
    tell = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(data, "epoch", epoch))
    model.fit(
        data.dataset(),
        epochs=3,
        initial_epoch=found.state["epochs_done"] if found else 0,
        verbose=0,
        callbacks=[
            tell,
            Setup(comm, restore=(lambda model: restore(model, found)) if found else None),
            *([Resume(comm, found)] if found else []),
            *([stop] if stop else []),
            proof,
            AgreeStop(comm),
            Saver(comm, folder, prove=proof.check, found=found),
        ],
    )
    comm.gather_json("saved", name="saved")
    newest, _ = checkpoint.load_newest(folder)
    assert newest is not None
    return {
        "epochs_done": newest.state["epochs_done"],
        "steps_done": newest.state["steps_done"],
        "state": prove_in_sync(model, comm, step=0),
    }


def case_stop_in_mid_epoch(comm: Comm, folder: Path) -> dict:
    """The last rank alone wants to stop; then the run is resumed, and compared with one that never stopped."""
    results = {}
    models: dict[str, tuple[keras.Model, list[np.ndarray], dict]] = {}
    for name, (options, per_execution, dtypes, batch, _) in STOPS.items():
        key = str((options, per_execution, dtypes))
        if comm.size != 2 and key in models:
            continue
        if key not in models:
            with policy(dtypes):
                optimizer = distribute(keras.optimizers.Adam(0.01, **options), comm)
                model = network(optimizer, steps_per_execution=per_execution)
            start = initial(model)
            models[key] = model, start, fit_epochs(comm, folder / f"{name} whole", model, None)
        model, start, whole = models[key]
        put_back(model, start)
        stop = StopAt(batch, is_here=comm.rank == comm.size - 1)
        stopped = fit_epochs(comm, folder / name, model, stop)
        put_back(model, start)
        results[name] = {"stopped": stopped, "resumed": fit_epochs(comm, folder / name, model, None), "whole": whole}
        if comm.size != 2 and len(results) == 2:
            break
    return results


def case_stop_asked_by_rank_0(comm: Comm, folder: Path) -> list[int]:
    """The way a request from outside takes: rank 0 asks, between two batches."""
    agree = AgreeStop(comm)
    steps: list[int] = []
    x, y = examples(comm, 8)
    model = network(distribute(keras.optimizers.SGD(0.1), comm))
    ask = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: agree.ask() if comm.rank == 0 and batch == 4 else None,
        on_train_batch_end=lambda batch, logs: steps.append(batch),
    )
    model.fit(batches(x, y), epochs=3, verbose=0, callbacks=[Setup(comm), ask, agree])
    return steps
