"""Cases about training data of every kind: who sees what, uneven shares, and what is refused."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdtrain.keras as hk
from hvdtrain.errors import HvdtrainError
from hvdtrain.train import background
from hvdtrain.train.callbacks import GlobalMetrics, Setup, SyncProof, TellEpoch, WeighUneven
from hvdtrain.train.comm import Comm, SoloComm
from hvdtrain.train.data import EpochBatches, origin
from hvdtrain.train.deal import user_dataset_batches
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.order import Order
from tests.ranks.semantics import distance, policy


def message_of(action: Callable[[], Any]) -> str:
    try:
        action()
    except (HvdtrainError, tf.errors.OpError) as error:
        return str(error)
    return "nothing was raised"


# -- who sees what ------------------------------------------------------------------------------


class Numbers(keras.utils.PyDataset):
    """Batches of two numbers, shuffled after each epoch as the Keras guide shows it."""

    def __init__(self, num_batches: int, **options: Any) -> None:
        super().__init__(**options)
        self.numbers = np.arange(2 * num_batches)

    def __len__(self) -> int:
        return len(self.numbers) // 2

    def __getitem__(self, index: int) -> Any:
        mine = self.numbers[2 * index : 2 * index + 2]
        return np.stack([mine] * 4, 1).astype("float32"), mine % 2

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.numbers)
        random.random()


def numbers_of(batches: Any) -> list[int]:
    return [int(number) for x, _ in batches for number in np.asarray(x)[:, 0]]


def case_arrays_in_order(comm: Comm, folder: Path) -> dict:
    """A dictionary of inputs; every epoch's numbers, step by step, with and without the last incomplete batch."""
    numbers = np.arange(10 * comm.size + comm.size + 1)
    seen = {}
    for remainder in ("drop", "pad"):
        part = hk.shard(({"a": numbers, "b": [numbers, numbers]}, numbers), batch_size=5, seed=3, remainder=remainder)
        part = part.map(lambda x, y: (x["a"], y)).prefetch(1)
        epochs = []
        for epoch in range(2):
            origin(part).tell(epoch)
            epochs.append([x.numpy().tolist() for x, _ in part])
        seen[remainder] = epochs
    return seen


def case_batches_dealt_out(comm: Comm, folder: Path) -> dict:
    """A PyDataset over three epochs of its own shuffling, a generator function, datasets that know no length."""
    num_batches = 4 * comm.size + 1
    np.random.seed(comm.rank)
    part = hk.shard(Numbers(num_batches, workers=2))
    epochs = []
    for _ in range(3):
        epochs.append(numbers_of(part[i] for i in range(len(part))))
        part.on_epoch_end()
    before = np.random.random()
    unguarded = Numbers(num_batches)
    unguarded.on_epoch_end()

    def batches() -> Iterator[Any]:
        yield from (Numbers(num_batches)[i] for i in range(num_batches))

    every = tf.data.Dataset.range(2 * num_batches).map(lambda n: (tf.repeat(n, 4), n)).filter(lambda x, n: n >= 0)
    return {
        "py_dataset": epochs,
        "unguarded": unguarded.numbers.tolist(),
        "random_afterwards": before,
        "workers": part.workers,
        "generator": [numbers_of(hk.shard(batches, length=num_batches)) for _ in range(2)],
        "unknown": numbers_of(hk.shard(every.batch(2), length=num_batches)),
    }


def case_trains_on_all_sources(comm: Comm, folder: Path) -> dict:
    """Real fits, each through `hk.callbacks`, which prove ranks in sync."""

    def batches() -> Iterator[Any]:
        yield from (Numbers(9)[i] for i in range(9))

    arrays = hk.shard((np.ones((40, 4), "float32"), np.ones(40)), batch_size=4)
    results = {}
    for name, data in {
        "py_dataset": hk.shard(Numbers(9, workers=2)),
        "generator": hk.shard(batches, length=9),
        "arrays": arrays.map(lambda x, y: (x * 2, y)),
    }.items():
        keras.utils.set_random_seed(comm.rank)
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
        model.compile(distribute(keras.optimizers.SGD(1e-4), comm), loss="mse")
        history = model.fit(data, epochs=2, verbose=0, callbacks=hk.callbacks(data=data))
        results[name] = {"loss": history.history["loss"], "steps": int(model.optimizer.iterations)}
    return results


class Interrupt(keras.callbacks.Callback):
    """Ends the training in the middle of the second epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == (1, 1):
            raise InterruptedError


def case_resumed_arrays(comm: Comm, folder: Path) -> dict:
    """Two epochs in one go, and in two starts: between the epochs, and within the second one, whose end is uneven."""
    random_numbers = np.random.default_rng(1)
    num_examples = 16 * comm.size + comm.size + 1
    x, y = random_numbers.normal(size=(num_examples, 4)), random_numbers.normal(size=(num_examples, 1))

    def train(name: str, epochs: int, *others: keras.callbacks.Callback, resume: bool = False) -> list[list]:
        keras.utils.set_random_seed(7)
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
        model.compile(distribute(keras.optimizers.SGD(0.1), comm), loss="mse")
        data = hk.shard((x, y), batch_size=4, remainder="pad")
        best = keras.callbacks.ModelCheckpoint(
            str(folder / f"{name}_{comm.rank}.weights.h5"), monitor="loss", save_best_only=True, save_weights_only=True
        )
        around = {"data": data, "checkpoint_dir": folder / name, "save_every_steps": 1, "resume": resume}
        callbacks = hk.callbacks([[best], *others], **around)
        first = hk.initial_epoch(folder / name) if resume else 0
        model.fit(data, epochs=epochs, initial_epoch=first, verbose=0, callbacks=callbacks)
        return [weight.tolist() for weight in model.get_weights()]

    whole, half = train("whole", 2), train("parts", 1)
    resumed = train("parts", 2, resume=True)
    with contextlib.suppress(InterruptedError):
        train("within", 2, Interrupt())
    background.finish_all(60)  # as a process does that ends by an exception
    comm.gather_json("interrupted", name="interrupted")
    within = train("within", 2, resume=True)
    writers = sorted(path.name for path in folder.glob("*.weights.h5"))
    return {"whole": whole, "resumed": resumed, "within": within, "half": half, "writers": writers}


# -- uneven shares ------------------------------------------------------------------------------


def uneven_data(comm: Comm) -> tuple[np.ndarray, np.ndarray, int]:
    """Return examples and a global batch that does not divide by the ranks; the last batch is smaller still."""
    global_batch = 4 * comm.size + 1
    random_numbers = np.random.default_rng(2)
    num_examples = 3 * global_batch + comm.size + 1
    return random_numbers.normal(size=(num_examples, 4)), random_numbers.normal(size=(num_examples, 2)), global_batch


def trained(comm: Comm, data: Any, order: Order, *, weigh: bool = True) -> dict:
    """Train for three epochs in double precision and return weights and history."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(5, activation="tanh", kernel_regularizer="l2"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.layers.Input((4,), dtype="float64"), *layers])
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(distribute(optimizer, comm) if comm.size > 1 else optimizer, loss="mse", metrics=["mae"])
    together = [Setup(comm), *([WeighUneven(comm, order)] if weigh else []), GlobalMetrics(comm), SyncProof(comm, 1)]
    tell = [TellEpoch(data)] if isinstance(data, EpochBatches) else []
    data = data.dataset() if isinstance(data, EpochBatches) else data
    history = model.fit(data, epochs=3, verbose=0, callbacks=[*(together if comm.size > 1 else []), *tell])
    return {"weights": model.get_weights(), "history": history.history}


def case_uneven_shares(comm: Comm, folder: Path) -> dict:
    """Arrays and the user's dataset, by R ranks with uneven shares and by one process with all of each batch."""
    x, y, batch = uneven_data(comm)
    mine = Order(len(x), batch, 4, 5, comm.rank, comm.size)
    alone = Order(len(x), batch, 4, 5, 0, 1)
    results = {}
    with policy("float64"):
        expected = trained(SoloComm(), EpochBatches((x, y), alone), alone)
        found = {
            "arrays": trained(comm, EpochBatches((x, y), mine), mine),
            "unweighted": trained(comm, EpochBatches((x, y), mine), mine, weigh=False),
        }
        for name, ours in found.items():
            results[name] = compared(ours, expected)
        every = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda x, y: True)
        options = {"global_batch_size": batch, "steps": 4, "num_examples": len(x)}
        expected = trained(SoloComm(), user_dataset_batches(every, rank=0, size=1, **options), alone)
        part = user_dataset_batches(every, rank=comm.rank, size=comm.size, **options)
        results["dataset"] = compared(trained(comm, part, mine), expected)
    return results


def case_padded_arrays(comm: Comm, folder: Path) -> dict:
    """The same through `hk.shard(remainder="pad")`; then the same optimizer on data that need no weights."""
    x, y, _ = uneven_data(comm)
    num_examples = 8 * comm.size + comm.size + 1
    x, y = x[:num_examples], y[:num_examples]
    with policy("float64"):

        def fit(model: keras.Model, data: Any, callbacks: Any) -> list[np.ndarray]:
            model.fit(data, epochs=2, verbose=0, callbacks=callbacks)
            return model.get_weights()

        def model_with(optimizer: keras.optimizers.Optimizer) -> keras.Model:
            keras.utils.set_random_seed(3)
            model = keras.Sequential([keras.layers.Input((4,), dtype="float64"), keras.layers.Dense(2)])
            model.compile(optimizer, loss="mse")
            return model

        together, alone = model_with(distribute(keras.optimizers.SGD(0.1), comm)), model_with(keras.optimizers.SGD(0.1))
        results = {}
        whole = 8 * comm.size
        for name, remainder, rows in (("even", "drop", whole), ("pad", "pad", num_examples), ("again", "drop", whole)):
            part = hk.shard((x[:rows], y[:rows]), batch_size=4, seed=5, remainder=remainder)
            steps = 2 + (remainder == "pad")
            order = EpochBatches((x[:rows], y[:rows]), Order(rows, 4 * comm.size, steps, 5, 0, 1))
            ours = fit(together, part, hk.callbacks(data=part))
            theirs = fit(alone, order.dataset(), [TellEpoch(order)])
            results[name] = distance(ours, theirs)
        return results


def compared(ours: dict, theirs: dict) -> dict:
    pairs = [
        (a, b) for name, values in theirs["history"].items() for a, b in zip(ours["history"][name], values, strict=True)
    ]
    return {
        "weights": distance(ours["weights"], theirs["weights"]),
        "history": max(abs(a - b) / abs(b) for a, b in pairs),
    }


# -- what is refused ----------------------------------------------------------------------------


def case_source_refusals(comm: Comm, folder: Path) -> dict:
    x = np.arange(64.0).reshape(-1, 1)
    few = np.ones((comm.size - 1, 1))
    unknown = tf.data.Dataset.range(2 * comm.size).filter(lambda n: n >= 0)
    started = (number for number in range(3))

    class Augmented(Numbers):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x + np.random.random(), y

    shuffled = Numbers(2 * comm.size)
    shuffled.numbers = np.roll(shuffled.numbers, comm.rank)
    short = hk.shard(unknown, length=2 * comm.size + comm.size)
    untold = hk.shard((x, x), batch_size=4)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(distribute(keras.optimizers.SGD(0.1), comm), loss="mse")
    limited = {"steps_per_epoch": 1, "verbose": 0, "callbacks": hk.callbacks(data=untold)}
    return {
        "few_arrays": message_of(lambda: hk.shard((few, few), batch_size=1)),
        "few_for_the_batch": message_of(lambda: hk.shard((x, x), batch_size=64)),
        "few_batches": message_of(lambda: hk.shard(Numbers(comm.size - 1))),
        "few_elements": message_of(lambda: hk.shard(tf.data.Dataset.range(comm.size - 1))),
        "no_batch_size": message_of(lambda: hk.shard((x, x))),
        "batch_size": message_of(lambda: hk.shard(unknown, batch_size=3)),
        "other_arrays": message_of(lambda: hk.shard((x + comm.rank, x), batch_size=4)),
        "other_batches": message_of(lambda: hk.shard(shuffled)),
        "augmented": message_of(lambda: hk.shard(Augmented(2 * comm.size))),
        "started": message_of(lambda: hk.shard(started, length=3)),
        "unknown": message_of(lambda: hk.shard(unknown)),
        "wrong_length": message_of(lambda: hk.shard(tf.data.Dataset.range(100), length=99)),
        "ended_early": message_of(lambda: list(short)),
        "no_arrays": message_of(lambda: hk.shard({"a": "b"}, batch_size=1)),
        "untold": message_of(lambda: list(untold)),
        "steps_per_epoch": message_of(lambda: model.fit(untold, **limited)),
    }
