"""What is tried on real ranks. Each case returns JSON; test_ranks.py compares what the ranks returned."""

import hashlib
import importlib
import pkgutil
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import HvdtrainError
from hvdtrain.train import checkpoint
from hvdtrain.train.callbacks import AgreeStop, GlobalMetrics, Saver, Setup, SyncProof, on_this_rank
from hvdtrain.train.comm import Comm, by_dtype, on_flat_buffer
from hvdtrain.train.compat import seed_states, to_array
from hvdtrain.train.data import EpochBatches, evaluation_part
from hvdtrain.train.deal import check_same_everywhere, shard
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.order import Order
from hvdtrain.train.schedule import ScaledSchedule
from hvdtrain.train.state import capture, restore
from hvdtrain.train.sync import broadcast_state, shared_variables

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum_clipped": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, global_clipnorm=0.5),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adam_clipvalue": lambda: keras.optimizers.Adam(0.01, clipvalue=0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.3),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    "adam_ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    "adam_accumulated": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}


def all_cases() -> dict:
    """Return name -> case(comm, folder), from every module of this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [importlib.import_module(f"tests.ranks.{name}") for name in names]
    cases: dict = {
        name.removeprefix("case_"): value
        for module in modules
        for name, value in vars(module).items()
        if name.startswith("case_") and isinstance(value, types.FunctionType)
    }
    for name, make in OPTIMIZERS.items():
        cases[f"in_sync_{name}"] = lambda comm, folder, make=make: in_sync(comm, make())
    return cases


def model_of(seed: int, *, with_norm: bool = True) -> keras.Model:
    keras.utils.set_random_seed(seed)
    norm = [keras.layers.BatchNormalization()] if with_norm else []
    dropout = [keras.layers.Dropout(0.3)] if with_norm else []
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            *norm,
            *dropout,
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def data_of(seed: int, num_examples: int = 96) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(num_examples, 6)).astype("float32"), random.integers(3, size=num_examples)


def compiled(model: keras.Model, optimizer: keras.optimizers.Optimizer, **options) -> keras.Model:
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


def bits(arrays) -> str:
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()


def state_bits(model: keras.Model) -> str:
    return bits(to_array(variable) for _, variable in shared_variables(model))


def message_of(action) -> str:
    try:
        action()
    except HvdtrainError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


# -- one model on all ranks ---------------------------------------------------------------------


def in_sync(comm: Comm, optimizer) -> dict:
    """Different initial weights and different data on each rank; after training: the same bits?"""
    model = compiled(model_of(seed=comm.rank), distribute(optimizer, comm))
    initial = bits(to_array(variable) for variable in model.variables)
    x, y = data_of(seed=100 + comm.rank)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[Setup(comm), AgreeStop(comm)])
    return {"initial": initial, "final": state_bits(model), "steps": int(model.optimizer.iterations)}


def case_horovods_own_wrapper(comm: Comm, folder: Path) -> dict:
    """The control: Horovod 0.28.1's Keras optimizer on Keras 3, from the same weights, on different data."""
    import horovod.tensorflow.keras as hvd_keras

    model = compiled(model_of(seed=0, with_norm=False), hvd_keras.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    x, y = data_of(seed=100 + comm.rank)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    return {"final": bits(model.get_weights())}


def case_same_weights_without_wrapper(comm: Comm, folder: Path) -> dict:
    """The control's control: the same training with ours."""
    model = compiled(model_of(seed=0, with_norm=False), distribute(keras.optimizers.SGD(0.1), comm))
    x, y = data_of(seed=100 + comm.rank)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[Setup(comm)])
    return {"final": bits(model.get_weights())}


def case_gradient_equals_big_batch(comm: Comm, folder: Path) -> dict:
    """The reduced gradient at equal weights against the gradient of the whole batch."""
    model = model_of(seed=3, with_norm=False)
    loss = keras.losses.SparseCategoricalCrossentropy()
    x, y = data_of(seed=5, num_examples=16 * comm.size)

    def gradient(rows) -> list:
        with tf.GradientTape() as tape:
            value = loss(y[rows], model(x[rows]))
        return tape.gradient(value, model.trainable_variables)

    mine = gradient(slice(comm.rank * 16, (comm.rank + 1) * 16))
    reduced = tf.function(lambda *tensors: comm.average(tensors, "test_gradient"))(*mine)
    whole = gradient(slice(None))
    # An element whose parts cancel keeps the rounding of its parts: it is held to 1 % of the tensor's largest.
    worst = max(
        float(np.max(np.abs(a.numpy() - b.numpy()) / (np.abs(b.numpy()) + 0.01 * np.max(np.abs(b.numpy())))))
        for a, b in zip(reduced, whole, strict=True)
    )
    differs = max(float(np.max(np.abs(a.numpy() - b.numpy()))) for a, b in zip(mine, whole, strict=True))
    return {"worst": worst, "local_differs_by": differs}


def case_trajectory_equals_one_process(comm: Comm, folder: Path) -> dict:
    """R ranks x b and one process with R*b: the same weights after an epoch, up to rounding."""
    x, y = data_of(seed=7, num_examples=24 * 4 * comm.size)

    def train(rank: int, size: int, batch: int, optimizer) -> keras.Model:
        model = compiled(model_of(seed=3, with_norm=False), optimizer)
        order = Order(len(x), batch * size, len(x) // (batch * size), 0, rank, size)
        batches = EpochBatches((x, y), order)
        # Only the distributed run talks to the other ranks.
        setup = [Setup(comm)] if size > 1 else []
        model.fit(batches.dataset(), epochs=1, verbose=0, callbacks=setup)
        return model

    together = train(comm.rank, comm.size, 8, distribute(keras.optimizers.SGD(0.1, momentum=0.9), comm))
    alone = train(0, 1, 8 * comm.size, keras.optimizers.SGD(0.1, momentum=0.9))
    pairs = zip(together.get_weights(), alone.get_weights(), strict=True)
    return {"worst": max(float(np.max(np.abs(a - b))) for a, b in pairs)}


def case_moving_statistics(comm: Comm, folder: Path) -> dict:
    """BatchNorm's statistics are those of all ranks' data."""
    model = compiled(model_of(seed=0), distribute(keras.optimizers.SGD(0.0), comm))
    x = np.full((16, 6), float(comm.rank), "float32") + np.eye(16, 6, dtype="float32")
    model.fit(x, np.zeros(16, "int64"), batch_size=16, epochs=1, verbose=0, callbacks=[Setup(comm)])
    layer = next(layer for layer in model.layers if "batch" in layer.name)
    return {
        "bits": bits([to_array(layer.moving_mean), to_array(layer.moving_variance)]),
        "mean": to_array(layer.moving_mean).tolist(),
    }


def case_dropout_masks_differ(comm: Comm, folder: Path) -> dict:
    model = compiled(model_of(seed=0), distribute(keras.optimizers.SGD(0.1), comm))
    broadcast_state(model, comm)
    layer = next(layer for layer in model.layers if "dropout" in layer.name)
    mask = keras.ops.convert_to_numpy(layer(np.ones((1, 64), "float32"), training=True))
    return {"mask": bits([mask]), "counter": int(to_array(seed_states(model)[0])[1])}


def case_flat_buffers(comm: Comm, folder: Path) -> dict:
    """Mixed dtypes and shapes keep their places; None passes through an optimizer."""
    tensors = [tf.fill((2, 3), float(comm.rank)), tf.constant([comm.rank], tf.float64), tf.constant(2.0 * comm.rank)]
    mean = [np.asarray(t).reshape(-1)[0].item() for t in comm.average(tensors, "flat")]
    same = by_dtype(tensors, lambda group: on_flat_buffer(group, lambda flat: flat))
    optimizer = distribute(keras.optimizers.SGD(1.0), comm)
    variables = [keras.Variable([1.0]), keras.Variable([1.0])]
    optimizer.build(variables)
    gradients = optimizer.hvdtrain_reduction.average([None, tf.constant([float(comm.rank)])])
    return {
        "mean": mean,
        "shapes": [list(t.shape) for t in same],
        "none": gradients[0] is None,
        "gradient": float(gradients[1][0]),
    }


def case_reduction(comm: Any, folder: Path) -> dict:
    """Which way gradients go, and that both ways give the same mean; the second one has no shared memory left."""
    values = [tf.fill((3, 4), 0.1 * (comm.rank + 1)), tf.fill((5,), 1.0 / (comm.rank + 3))]
    first = comm.average(values, "first_way")
    left, used = 0, comm.node_mean is not None
    if used:
        left, comm.node_mean._bytes_left = comm.node_mean._bytes_left, 0
    second = comm.average(values, "second_way")
    if used:
        comm.node_mean._bytes_left = left
    worst = max(float(tf.reduce_max(abs(a - b))) for a, b in zip(first, second, strict=True))
    return {"shared": used, "worst": worst, "mean": float(first[0][0, 0]), "bits": bits(first)}


def case_retraced_on_one_rank(comm: Comm, folder: Path) -> float:
    """A function that one rank alone traces anew, as a shorter last batch makes it, still meets the others."""
    average = tf.function(lambda x: comm.average([tf.reduce_sum(x, 0)], "retraced")[0], reduce_retracing=False)
    total = 0.0
    for step in range(4):
        num_rows = 5 if comm.rank == 0 and step % 2 else 3
        total += float(average(tf.ones((num_rows, 2)))[0])
    return total


# -- data ---------------------------------------------------------------------------------------


def case_shards(comm: Comm, folder: Path) -> dict:
    """Sample numbers each rank trains on, over two epochs, and its part of an odd evaluation set."""
    num_examples = 103
    numbers = np.arange(num_examples)
    steps = num_examples // (5 * comm.size)
    batches = EpochBatches((numbers, numbers), Order(num_examples, 5 * comm.size, steps, 11, comm.rank, comm.size))
    dataset = batches.dataset()
    epochs = []
    for epoch in range(2):
        batches.epoch = epoch
        epochs.append([x.numpy().tolist() for x, _ in dataset])
    evaluation = evaluation_part((numbers, numbers), batch_size=7, rank=comm.rank, size=comm.size).batches
    evaluated = [int(number) for x, _ in evaluation for number in x]
    dealt = [int(x) for x in shard(tf.data.Dataset.range(num_examples), rank=comm.rank, size=comm.size)]
    return {"epochs": epochs, "evaluated": evaluated, "dealt": dealt}


def case_shard_refusals(comm: Comm, folder: Path) -> dict:
    numbers = tf.data.Dataset.range(100)
    options = {"rank": comm.rank, "size": comm.size}
    tf.random.set_seed(comm.rank)
    other_order = numbers.shuffle(100).batch(5)
    tf.compat.v1.set_random_seed(None)
    unseeded = numbers.shuffle(100).batch(5)
    return {
        "other_order": message_of(lambda: check_same_everywhere(other_order, comm)),
        "other_length": message_of(lambda: check_same_everywhere(numbers.take(50 + comm.rank), comm)),
        "same": message_of(lambda: check_same_everywhere(numbers, comm)),
        "unseeded": message_of(lambda: shard(unseeded, **options)),
        "seeded": message_of(lambda: shard(numbers.shuffle(100, seed=3).batch(5), **options)),
        "infinite": message_of(lambda: shard(numbers.repeat(), **options)),
        "unknown": message_of(lambda: shard(numbers.filter(lambda x: x > 3), **options)),
        "small": message_of(lambda: shard(numbers.take(1), **options)),
    }


def case_divide(comm: Comm, folder: Path) -> dict:
    order = Order(40, 4, 10, 0, comm.rank, comm.size, divide=True)
    return {"seen": sorted(order.batches(0).reshape(-1).tolist()), "order": order.batches(0).tolist()}


# -- metrics, stopping, writing -----------------------------------------------------------------


def case_global_metrics(comm: Comm, folder: Path) -> dict:
    """Logs against one process over the union of the data; the parts have different sizes."""
    model = compiled(model_of(seed=1, with_norm=False), distribute(keras.optimizers.SGD(0.0), comm))
    x, y = data_of(seed=2, num_examples=101)
    seen = {}
    spy = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.update(logs))
    cut = len(x) - len(x) % comm.size
    train = slice(comm.rank * cut // comm.size, (comm.rank + 1) * cut // comm.size)
    validation = evaluation_part((x, y), batch_size=10, rank=comm.rank, size=comm.size).batches
    history = model.fit(
        x[train], y[train], batch_size=10, epochs=1, verbose=0, validation_data=validation,
        callbacks=[Setup(comm), GlobalMetrics(comm), spy],
    )  # fmt: skip
    train_expected = model.evaluate(x[:cut], y[:cut], verbose=0, return_dict=True)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    return {
        "seen": seen,
        "expected": {**train_expected, **{f"val_{k}": v for k, v in expected.items()}},
        "history": {name: values[-1] for name, values in history.history.items()},
    }


def case_stop_together(comm: Comm, folder: Path) -> dict:
    """The last rank alone wants to stop after its second epoch."""
    model = compiled(model_of(seed=0), distribute(keras.optimizers.SGD(0.1), comm))

    def maybe_stop(epoch, logs):
        model.stop_training = comm.rank == comm.size - 1 and epoch == 1

    x, y = data_of(seed=1)
    history = model.fit(
        x, y, batch_size=16, epochs=6, verbose=0,
        callbacks=[Setup(comm), keras.callbacks.LambdaCallback(on_epoch_end=maybe_stop), AgreeStop(comm)],
    )  # fmt: skip
    return {"epochs": len(history.epoch)}


def case_one_writer(comm: Comm, folder: Path) -> dict:
    """Writers of the user and our own checkpoints: each rank writes under its own name if it writes at all."""
    model = compiled(model_of(seed=0), distribute(keras.optimizers.SGD(0.1), comm))
    user = [
        keras.callbacks.ModelCheckpoint(str(folder / f"by_{comm.rank}.weights.h5"), save_weights_only=True),
        keras.callbacks.CSVLogger(str(folder / f"by_{comm.rank}.csv")),
    ]
    x, y = data_of(seed=1)
    saver = Saver(comm, folder / f"ckpt_{comm.rank}")
    callbacks = [Setup(comm), *on_this_rank(user, comm), SyncProof(comm, 4), saver]
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
    comm.gather_json("saved", name="saved")
    return {"files": sorted(path.name for path in folder.iterdir())}


def case_checkpoint_round_trip(comm: Comm, folder: Path) -> dict:
    """Rank 0's checkpoint restores every rank: continuing equals not having stopped."""
    x, y = data_of(seed=comm.rank)

    def train(model, epochs, first, callbacks):
        options = {"batch_size": 16, "shuffle": False, "verbose": 0}
        model.fit(x, y, epochs=epochs, initial_epoch=first, callbacks=callbacks, **options)

    whole = compiled(model_of(seed=0), distribute(keras.optimizers.Adam(0.01), comm))
    train(whole, 4, 0, [Setup(comm)])
    half = compiled(model_of(seed=0), distribute(keras.optimizers.Adam(0.01), comm))
    train(half, 2, 0, [Setup(comm)])
    if comm.rank == 0:
        checkpoint.save(folder, capture(half, step=1, state={"epochs_done": 2}), keep=1)
    comm.gather_json("saved", name="saved")
    again = compiled(model_of(seed=99), distribute(keras.optimizers.Adam(0.01), comm))
    found, _ = checkpoint.load_newest(folder)
    assert found is not None
    train(again, 4, 2, [Setup(comm, restore=lambda model: restore(model, found))])
    return {"whole": state_bits(whole), "resumed": state_bits(again), "half": state_bits(half)}


def case_warm_up(comm: Comm, folder: Path) -> dict:
    """The first step of a warm-up uses the one-rank rate, to the bit."""
    schedule = ScaledSchedule("constant", 0.1, 0.1 * comm.size, 10, 100, {})
    model = compiled(model_of(0), distribute(keras.optimizers.SGD(schedule), comm))
    rates = []

    def note(batch, logs):
        rates.append(float(model.optimizer.learning_rate))

    spy = keras.callbacks.LambdaCallback(on_train_batch_begin=note)
    x, y = data_of(seed=1, num_examples=192)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[Setup(comm), spy])
    return {"first": rates[0], "expected": float(np.float32(0.1)), "last": rates[-1]}
