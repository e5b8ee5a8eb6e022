"""Ways for gradients to travel: half precision, Adasum, several groups."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import HvdtrainError
from hvdtrain.train.callbacks import Setup, SyncProof
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.exchange import Exchange
from hvdtrain.train.optimizer import distribute
from tests.ranks.semantics import distance, policy


def trained(comm: Comm, exchange: Exchange, **options: Any) -> list[np.ndarray]:
    """Return the weights after 8 steps on this rank's own data; SyncProof looks at each of them."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.BatchNormalization(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.layers.Input((6,)), *layers, keras.layers.Dense(1)])
    model.compile(distribute(keras.optimizers.SGD(0.05, **options), comm, exchange), loss="mse", jit_compile=False)
    x = np.random.default_rng(comm.rank).normal(size=(32, 6)).astype("float32")
    model.fit(x, x[:, :1], batch_size=4, shuffle=False, verbose=0, callbacks=[Setup(comm), SyncProof(comm, 1)])
    return [to_array(variable).copy() for variable in model.variables if variable.trainable]


def case_compression(comm: Comm, folder: Any) -> dict:
    whole, half = trained(comm, Exchange()), trained(comm, Exchange("fp16"))
    values = tf.constant([1.0, 1e6 if comm.rank == 0 else 1.0, 2**-11 * 1.001])
    (sent,) = Exchange("fp16")(comm, [values], [])
    return {
        "off": distance(half, whole),
        "bits": [array.tobytes().hex()[:48] for array in half],
        "dtype": sent.dtype.name,
        "overflows": bool(np.isinf(sent[1])),
        "others_do_not": bool(np.isfinite(sent[0])),
        "rounded": float(sent[2]),
    }


def case_groups(comm: Comm, folder: Any) -> dict:
    """The weights for 1 and for several groups, and more groups than there are gradients."""
    found = {num: trained(comm, Exchange(num_groups=num), momentum=0.9) for num in (None, 3, 50)}
    whole = found[None]
    return {
        "same_bits": [all(np.array_equal(a, b) for a, b in zip(whole, found[num], strict=True)) for num in (3, 50)],
        "off": [distance(found[num], whole) for num in (3, 50)],
    }


def adasum_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the pair's Adasum (Maleki et al. 2021, equation 3)."""
    dot = float(np.sum(a * b))
    return (1 - dot / (2 * np.sum(a * a))) * a + (1 - dot / (2 * np.sum(b * b))) * b


def adasum_reference(gradients: list[np.ndarray]) -> np.ndarray:
    """Combine neighbours, then neighbouring pairs, and so on."""
    while len(gradients) > 1:
        gradients = [adasum_of(a, b) for a, b in zip(gradients[::2], gradients[1::2], strict=True)]
    return gradients[0]


def case_adasum(comm: Comm, folder: Any) -> dict:
    """Adasum of one gradient against the formula, in training, and for rows; refused where it cannot be."""
    if comm.size & (comm.size - 1):
        try:
            distribute(keras.optimizers.SGD(0.1), comm, Exchange(op="adasum"))
        except HvdtrainError as error:
            return {"refused": str(error)}
    parts = [np.random.default_rng(rank).normal(size=(5, 3)) for rank in range(comm.size)]
    reduction = distribute(keras.optimizers.SGD(0.1), comm, Exchange(op="adasum")).hvdtrain_reduction
    mine = parts[comm.rank]
    rows = tf.IndexedSlices(tf.constant(mine[:2]), tf.constant([0, 3]), tf.constant([5, 3]))
    combined, none, dense = reduction.average([tf.constant(mine), None, rows])
    padded = [np.zeros((5, 3)) for _ in parts]
    for target, part in zip(padded, parts, strict=True):
        target[[0, 3]] = part[:2]
    weights = trained(comm, Exchange(op="adasum"))
    scaled = ""
    try:
        with policy("mixed_float16"):
            distribute(keras.optimizers.SGD(0.1), comm, Exchange(op="adasum"))
    except HvdtrainError as error:
        scaled = str(error)
    return {
        "off": float(np.max(abs(combined.numpy() - adasum_reference(parts)))),
        "rows_off": float(np.max(abs(tf.convert_to_tensor(dense).numpy() - adasum_reference(padded)))),
        "mean_off": float(np.max(abs(combined.numpy() - np.mean(parts, 0)))),
        "none": none is None,
        "bits": [array.tobytes().hex()[:48] for array in weights],
        "from_mean": distance(weights, trained(comm, Exchange())),
        "scaled": scaled,
    }
