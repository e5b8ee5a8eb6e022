"""Cases about evaluation and prediction by all ranks, and about weighted metrics: against one process."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdtrain.keras as hk
from hvdtrain.errors import HvdtrainError
from hvdtrain.train import comm as comm_module
from hvdtrain.train.callbacks import TellEpoch
from hvdtrain.train.comm import Comm
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.order import Order
from hvdtrain.train.sync import broadcast_state
from tests.ranks.semantics import policy


class Batches(keras.utils.PyDataset):
    """A PyDataset over arrays; the last batch is a smaller one."""

    def __init__(self, arrays: Any, batch_size: int) -> None:
        super().__init__()
        self.arrays = arrays
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(tf.nest.flatten(self.arrays)[0]) // self.batch_size)

    def __getitem__(self, index: int) -> Any:
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return tf.nest.map_structure(lambda array: array[rows], self.arrays)


def examples(num_examples: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Return inputs and targets by name, and sample weights."""
    random = np.random.default_rng(num_examples)
    x = {name: random.normal(size=(num_examples, 3)).astype("float32") for name in ("left", "right")}
    y = {"number": random.normal(size=(num_examples, 2)), "kind": random.integers(3, size=num_examples)}
    return x, {**y, "number": y["number"].astype("float32")}, random.random(num_examples).astype("float32")


def two_headed(comm: Comm, **options: Any) -> keras.Model:
    """Two inputs and two outputs, each with metrics of its own; the same weights on all ranks."""
    inputs = {name: keras.layers.Input((3,), name=name) for name in ("left", "right")}
    hidden = keras.layers.Dense(4, activation="tanh")(keras.layers.Concatenate()(list(inputs.values())))
    number = keras.layers.Dense(2, name="number")(hidden)
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(hidden)
    model = keras.Model(inputs, {"number": number, "kind": kind})
    model.compile(
        options.pop("optimizer", None) or distribute(keras.optimizers.SGD(0.1), comm),
        loss={"number": "mse", "kind": "sparse_categorical_crossentropy"},
        metrics={"number": ["mae"], "kind": ["accuracy"]},
        weighted_metrics={"number": ["mse"], "kind": ["accuracy"]},
    )
    return model


# Keras averages the loss of one output over batches, whatever their size, and counts a batch that is not there where
# a dataset does not know its length: it depends on the batches even in one process.
BY_BATCH = ("number_loss", "kind_loss", "val_number_loss", "val_kind_loss")


def off(found: dict[str, float], expected: dict[str, float]) -> float:
    """Return the largest relative difference of any value over examples."""
    assert found.keys() == expected.keys(), (found, expected)
    pairs = [(found[name], value) for name, value in expected.items() if name not in BY_BATCH]
    return max(abs(a - b) / (abs(b) + 1e-12) for a, b in pairs)


def case_evaluate(comm: Comm, folder: Path) -> dict:
    """All kinds of data, unequal parts, and fewer examples than ranks."""
    model = two_headed(comm)
    broadcast_state(model, comm)
    results = {}
    for num_examples in (1, comm.size - 1, 10 * comm.size + 3):
        x, y, weights = arrays = examples(num_examples)
        dataset = tf.data.Dataset.from_tensor_slices(arrays)
        plain = model.evaluate(x, y, verbose=0, return_dict=True)
        weighted = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
        results[str(num_examples)] = {
            "arrays": off(hk.evaluate(model, (x, y), batch_size=7), plain),
            "weighted": off(hk.evaluate(model, arrays), weighted),
            "batched": off(hk.evaluate(model, dataset.batch(4)), weighted),
            "unbatched": off(hk.evaluate(model, dataset.filter(lambda *_: True), batch_size=4), weighted),
            "py_dataset": off(hk.evaluate(model, Batches(arrays, 4)), weighted),
            "control": off(plain, weighted),
        }
    return results


def case_predict(comm: Comm, folder: Path) -> dict:
    """In the data's order, from all kinds of data, whole and sent in small pieces."""
    model = two_headed(comm)
    broadcast_state(model, comm)
    results = {}
    for num_examples in (1, comm.size - 1, 10 * comm.size + 3):
        x, _, _ = examples(num_examples)
        dataset = tf.data.Dataset.from_tensor_slices(x)
        expected = model.predict(x, verbose=0)

        def worst(found: Any, expected: Any = expected) -> float:
            pairs = [(found[name], expected[name]) for name in expected]
            assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
            return max(float(np.max(abs(a - b))) for a, b in pairs)

        results[str(num_examples)] = {
            "arrays": worst(hk.predict(model, x, batch_size=3)),
            "batched": worst(hk.predict(model, dataset.batch(4))),
            "unbatched": worst(hk.predict(model, dataset.filter(lambda _: True), batch_size=4)),
            "py_dataset": worst(hk.predict(model, Batches((x,), 4))),
        }
        results["spread"] = float(np.ptp(expected["number"]))
    before = comm_module.PIECE_BYTES
    comm_module.PIECE_BYTES = 100
    in_pieces = hk.predict(model, x, on_all_ranks=False)
    comm_module.PIECE_BYTES = before
    results["in_pieces"] = None if in_pieces is None else worst(in_pieces)
    keras.utils.set_random_seed(1)
    uncompiled = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    one = hk.predict(uncompiled, x["left"])
    return results | {"one_output": float(np.max(abs(one - uncompiled.predict(x["left"], verbose=0))))}


def case_inference_refusals(comm: Comm, folder: Path) -> dict:
    def message(action: Any) -> str:
        try:
            action()
        except HvdtrainError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    model = two_headed(comm)
    broadcast_state(model, comm)
    x, y, _ = examples(0)
    endless = tf.data.Dataset.from_tensor_slices(examples(3)[0]).repeat().batch(2)
    tf.compat.v1.set_random_seed(None)  # an earlier case may have set one for all shuffles
    shuffled = tf.data.Dataset.from_tensor_slices(examples(3)[0]).shuffle(3).batch(2)
    results = {
        "nothing": message(lambda: hk.evaluate(model, (x, y))),
        "nothing_to_predict": message(lambda: hk.predict(model, x)),
        "endless": message(lambda: hk.predict(model, endless)),
        "shuffled": message(lambda: hk.predict(model, shuffled)),
    }
    weight = model.trainable_variables[0]
    weight.assign(weight + float(comm.rank == comm.size - 1))
    return results | {"other_weights": message(lambda: hk.predict(model, examples(3)[0]))}


# -- weighted metrics in fit --------------------------------------------------------------------


def case_weighted_history(comm: Comm, folder: Path) -> dict:
    """Sample weights, class weights, several outputs: the history of one process on the union of the data."""
    results = {}
    with policy("float64"):
        for name in ("sample_weights", "equal_parts", "class_weights"):
            rest = 0 if name == "equal_parts" else comm.size + 1
            arrays, validation = examples(12 * comm.size + rest), examples(4 * comm.size + rest)
            histories = []
            for ranks in (comm.size, 1):
                optimizer = keras.optimizers.SGD(0.05)
                keras.utils.set_random_seed(3)
                if name != "class_weights":
                    options: dict[str, Any] = {}
                    train, test = arrays, validation
                    model = two_headed(comm, optimizer=distribute(optimizer, comm) if ranks > 1 else optimizer)
                else:
                    options = {"class_weight": {0: 0.5, 1: 2.0, 2: 1.5}}
                    train, test = ((part[0]["left"], part[1]["kind"]) for part in (arrays, validation))
                    model = classifier(distribute(optimizer, comm) if ranks > 1 else optimizer)
                histories.append(history_of(comm, model, train, test, ranks=ranks, **options))
            found, expected = histories
            assert found.keys() == expected.keys()
            results[name] = {
                key: max(abs(a - b) / (abs(b) + 1e-12) for a, b in zip(found[key], expected[key], strict=True))
                for key in expected
            }
    return results


def classifier(optimizer: keras.optimizers.Optimizer) -> keras.Model:
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(3, activation="softmax")])
    hits = keras.metrics.SparseCategoricalAccuracy(name="hits")
    total = keras.metrics.MeanMetricWrapper(keras.losses.sparse_categorical_crossentropy, name="entropy")
    loss = "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy", Right()], weighted_metrics=[hits, total])
    return model


class Right(keras.metrics.Sum):
    """How many predictions are right: a count, which is exact or wrong."""

    def __init__(self) -> None:
        super().__init__(name="right")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        right = keras.ops.equal(keras.ops.argmax(y_pred, -1), keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int64"))
        return super().update_state(keras.ops.cast(right, "float64"))


def history_of(comm: Comm, model: keras.Model, train: Any, test: Any, *, ranks: int, **options: Any) -> dict:
    """Train on the same global batches, by all ranks or by one process, and return the history."""
    if ranks > 1:
        data = hk.shard(train, batch_size=4, seed=1, remainder="pad")
        callbacks, validation = hk.callbacks(data=data), hk.evaluation_part(test, batch_size=4)
    else:
        num_examples = len(tf.nest.flatten(train)[0])
        order = Order(num_examples, 4 * comm.size, -(-num_examples // (4 * comm.size)), 1, 0, 1)
        batches = EpochBatches(train, order)
        data, callbacks = batches.dataset(), [TellEpoch(batches)]
        validation = tf.data.Dataset.from_tensor_slices(test).batch(4 * comm.size)
    fitted = model.fit(data, epochs=2, verbose=0, validation_data=validation, callbacks=callbacks, **options)
    return fitted.history


def case_small_validation(comm: Comm, folder: Path) -> dict:
    """One validation example for all ranks; in fit, through the callbacks."""
    x, y, _ = examples(4 * comm.size)
    model = two_headed(comm)
    one = tuple(tf.nest.map_structure(lambda array: array[:1], part) for part in (x, y))
    data = hk.shard((x, y), batch_size=2)
    part = hk.evaluation_part(one)
    history = model.fit(data, epochs=1, verbose=0, validation_data=part, callbacks=hk.callbacks(data=data)).history
    expected = model.evaluate(*one, verbose=0, return_dict=True)
    found = {name.removeprefix("val_"): values[-1] for name, values in history.items() if name.startswith("val_")}
    return {"off": off(found, expected)}
