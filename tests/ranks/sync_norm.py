"""SyncBatchNormalization on real ranks against one process with the global batch."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from hvdtrain.train.callbacks import Setup, SyncProof, WeighUneven
from hvdtrain.train.comm import Comm, SoloComm, join
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.order import Order
from hvdtrain.train.sync import prove_in_sync
from hvdtrain.train.sync_batch_norm import SyncBatchNormalization
from tests.ranks.model_kinds import weights
from tests.ranks.semantics import distance, policy

STEPS = 3


@contextlib.contextmanager
def alone(comm: Comm) -> Iterator[None]:
    """Let layers of this process do without the other ranks for a while."""
    join(SoloComm())
    try:
        yield
    finally:
        join(comm)


def images(norm: Any) -> keras.Model:
    """Channels last, few examples, a mean far from zero, and a large momentum so that statistics move."""
    layers = keras.layers
    convolution = [layers.Input((4, 4, 2)), layers.Conv2D(3, 3, activation="tanh"), norm(momentum=0.5)]
    return keras.Sequential([*convolution, layers.Flatten(), layers.Dense(2)])


def channels_first(norm: Any) -> keras.Model:
    layers = keras.layers
    return keras.Sequential([layers.Input((4, 4, 2)), norm(axis=1, scale=False), layers.Flatten(), layers.Dense(2)])


def masked(norm: Any) -> keras.Model:
    """Sequences of different lengths: each rank has another number of values that count."""
    layers = keras.layers
    sequences = [layers.Input((4, 4, 2)), layers.Reshape((16, 2)), layers.Masking(0.0)]
    return keras.Sequential([*sequences, norm(momentum=0.5), layers.GlobalAveragePooling1D(), layers.Dense(2)])


def twice_and_in_parallel(norm: Any) -> keras.Model:
    """One layer called twice, and two branches whose order nothing but hvdtrain fixes."""
    layers = keras.layers
    inputs = layers.Input((4, 4, 2))
    shared = norm(momentum=0.5)
    hidden = shared(layers.Activation("tanh")(shared(inputs)))
    branches = [norm()(layers.Conv2D(3, 2, activation="tanh")(hidden)) for _ in range(2)]
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add()(branches))))


MODELS = (images, channels_first, masked, twice_and_in_parallel)


def data(num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    x = random.normal(size=(num_examples, 4, 4, 2)) + 3.0
    for row, length in enumerate(random.integers(1, 16, size=num_examples)):
        x[row].reshape(16, 2)[length:] = 0.0
    return x, random.normal(size=(num_examples, 2))


def trained(make: Any, norm: Any, examples_per_step: int, num_examples: int, comm: Comm) -> list[np.ndarray]:
    """Return the weights and statistics after an epoch, by all ranks of `comm` together."""
    keras.utils.set_random_seed(3)
    model = make(norm)
    model.compile(distribute(keras.optimizers.SGD(0.05, momentum=0.9), comm), loss="mse", jit_compile=False)
    steps = -(-num_examples // examples_per_step)
    order = Order(num_examples, examples_per_step, steps, 0, comm.rank, comm.size)
    callbacks = [Setup(comm), WeighUneven(comm, order), SyncProof(comm, 1)] if comm.size > 1 else []
    model.fit(EpochBatches(data(num_examples), order).dataset(), epochs=1, verbose=0, callbacks=callbacks)
    return weights(model)


def case_sync_batch_norm(comm: Comm, folder: Any) -> dict:
    """Weights and moving statistics of each model, against plain BatchNormalization in one process: on rank 0."""
    results = {}
    with policy("float64"):
        for make in MODELS:
            sizes = (3 * comm.size, 3 * comm.size * STEPS)
            ours = trained(make, SyncBatchNormalization, *sizes, comm)
            plain = trained(make, keras.layers.BatchNormalization, *sizes, comm)
            if comm.rank == 0:
                with alone(comm):
                    whole = trained(make, keras.layers.BatchNormalization, *sizes, SoloComm())
                results[make.__name__] = {"off": distance(ours, whole), "plain_off": distance(plain, whole)}
    return results


def case_sync_batch_norm_uneven(comm: Comm, folder: Any) -> dict:
    """Replicas that differ by an example, and a last batch in which one has less still."""
    sizes = (3 * comm.size + 1, (3 * comm.size + 1) * 2 + comm.size + 1)
    with policy("float64"):
        ours = trained(images, SyncBatchNormalization, *sizes, comm)
        with alone(comm):
            whole = trained(images, keras.layers.BatchNormalization, *sizes, SoloComm())
        return {"off": distance(ours, whole)}


def case_many_sync_batch_norms(comm: Comm, folder: Any) -> dict:
    """Twelve layers in four branches, two steps per execution: nobody waits for ever."""
    keras.utils.set_random_seed(3)
    inputs = keras.layers.Input((4,))
    branches = []
    for _ in range(4):
        branch = inputs
        for _ in range(3):
            branch = SyncBatchNormalization()(keras.layers.Dense(4, activation="tanh")(branch))
        branches.append(branch)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(branches)))
    model.compile(distribute(keras.optimizers.Adam(0.01), comm), loss="mse", steps_per_execution=2)
    x = np.random.default_rng(comm.rank).normal(size=(32, 4)).astype("float32")
    model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=[Setup(comm), SyncProof(comm, 2)])
    return {"digest": prove_in_sync(model, comm, step=8)}


def case_sync_batch_norm_large_mean(comm: Comm, folder: Any) -> dict:
    """In single precision a mean of 1,000 must not swallow a variance of 1."""
    x = (np.random.default_rng(3).normal(size=(64 * comm.size, 2)) + 1000.0).astype("float32")
    layer = SyncBatchNormalization(momentum=0.0)
    layer.build((None, 2))
    layer(x[comm.rank * 64 : (comm.rank + 1) * 64], training=True)
    found = keras.ops.convert_to_numpy(layer.moving_variance)
    return {"off": float(np.max(abs(found / x.astype("float64").var(0) - 1)))}


def case_sync_batch_norm_in_inference(comm: Comm, folder: Any) -> dict:
    """The layer in inference, and in a process alone, is Keras's; and it goes through its configuration."""
    x = np.random.default_rng(comm.rank).normal(size=(8, 3)).astype("float32")
    ours, keras_own = SyncBatchNormalization(momentum=0.9, name="n"), keras.layers.BatchNormalization(momentum=0.9)
    same = []
    with alone(comm):
        for training in (True, False):
            same.append(np.array_equal(ours(x, training=training), keras_own(x, training=training)))
        same.append(np.array_equal(ours.moving_variance, keras_own.moving_variance))
    same.append(np.array_equal(ours(x, training=False), keras_own(x, training=False)))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    return {"same": same, "class": type(again).__name__, "config": again.get_config() == ours.get_config()}
