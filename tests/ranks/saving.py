"""Cases about saving beside the training."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import keras
import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.train import checkpoint
from hvdtrain.train.callbacks import Saver, Setup, SyncProof
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import steps_taken
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.state import named_variables


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Return a hash of what all ranks share: random states differ by rank on purpose."""
    shared = sorted(name for name in arrays if name.startswith(("model/", "optimizer/")))
    return hashlib.sha256(b"".join(np.asarray(arrays[name]).tobytes() for name in shared)).hexdigest()[:16]


def small_model(comm: Comm) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(3, activation="softmax")])
    optimizer = distribute(keras.optimizers.Adam(0.05), comm)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def case_saves_beside_training(comm: Comm, folder: Path) -> dict:
    """Every step is saved to a disk that is slower than the steps, twice: the second training must be refused."""
    numbers = np.random.default_rng(comm.rank)
    x, y = numbers.random((32, 6)).astype("float32"), numbers.integers(3, size=32)
    model = small_model(comm)
    told: list[Path] = []
    seen: dict[int, str] = {}

    def note(batch, logs):
        seen[steps_taken(model)] = digest({name: variable.numpy() for name, variable in named_variables(model).items()})

    def fit(model: keras.Model) -> None:
        proof = SyncProof(comm, None)
        saver = Saver(comm, folder / "ckpt", every_steps=1, keep=99, prove=proof.check, on_saved=told.append)
        spy = keras.callbacks.LambdaCallback(on_train_batch_end=note)
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=[Setup(comm), proof, spy, saver])

    real = os.fsync

    def slow(descriptor):
        time.sleep(0.01)
        real(descriptor)

    os.fsync = slow
    try:
        fit(model)
    finally:
        os.fsync = real
    comm.gather_json("saved", name="saved")
    found = [checkpoint.load(path) for path in checkpoint.checkpoints(folder / "ckpt")]
    saved = {one.step: digest(one.arrays) for one in found}
    totals = [one.arrays[name].shape[0] for one in found for name in one.arrays if name.startswith("metrics/")]
    comm.gather_json("loaded", name="loaded")
    refused = ""
    try:
        fit(small_model(comm))
    except UserCodeError as error:
        refused = str(error)
    return {
        "told": [path.name for path in told],
        "seen": sorted(seen.items()),
        "saved": sorted(saved.items()),
        "totals": sorted(set(totals)),
        "refused": refused,
    }
