"""Cases about going on in the middle of an epoch, as a user's own script does it."""

import hashlib
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np

import hvdtrain.keras as hk
from hvdtrain.train import background
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import general_seed_state, to_array
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.order import Order
from hvdtrain.train.state import named_variables

STOP_AT = (3, 2)  # epoch and batch, from 0
EPOCHS = 6


class Noise(keras.layers.Layer):
    """Draws without a seed of its own."""

    def call(self, x, training=False):
        return x + keras.random.normal((1, 6)) if training else x


class Stop(keras.callbacks.Callback):
    def __init__(self, comm: Comm) -> None:
        super().__init__()
        self._comm = comm
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == STOP_AT:
            raise InterruptedError


def case_script_goes_on_in_the_middle(comm: Comm, folder: Path) -> dict:
    """hk.callbacks(..., resume=True) after a stop within an epoch: the same end, decisions of callbacks included."""
    the_world_of_the_cases: Any = types.SimpleNamespace(comm=comm, rank=comm.rank, size=comm.size)
    hk._world = the_world_of_the_cases
    random = np.random.default_rng(1)
    x, y = random.normal(size=(60, 6)).astype("float32"), random.integers(3, size=60)

    def train(root: Path, stop: bool = False, resume: bool = False) -> dict:
        keras.utils.set_random_seed(comm.rank)
        layers = [keras.layers.Input((6,)), Noise(), keras.layers.Dense(9), keras.layers.Dropout(0.2)]
        model = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax")])
        optimizer = distribute(keras.optimizers.Adam(0.3), comm)
        model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        batches = EpochBatches((x, y), Order(60, 12, 5, 3, comm.rank, comm.size))
        plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, cooldown=1)
        early = keras.callbacks.EarlyStopping(monitor="loss", patience=4, restore_best_weights=True)
        tell = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(batches, "epoch", epoch))
        mine = [plateau, early, *([Stop(comm)] if stop else [])]
        around = hk.callbacks(mine, checkpoint_dir=root, save_every_steps=2, resume=resume)
        first = hk.initial_epoch(root) if resume else 0
        history = model.fit(
            batches.dataset(), epochs=EPOCHS, initial_epoch=first, verbose=0, callbacks=[tell, *around]
        )
        digest = hashlib.sha256()
        for variable in named_variables(model).values():
            digest.update(np.ascontiguousarray(to_array(variable)).tobytes())
        return {
            "digest": digest.hexdigest(),
            "general_seed": to_array(general_seed_state()).tolist(),
            "logs": [history.history["loss"][-1], history.history["accuracy"][-1]],
            "rate": float(to_array(optimizer.learning_rate)),
            "decisions": [plateau.best, plateau.wait, early.best, early.wait, early.best_epoch],
            "first": first,
        }

    whole = train(folder / "whole")
    try:
        train(folder / "stopped", stop=True)
    except InterruptedError:
        background.finish_all(60)  # as a process does that ends by an exception
        comm.gather_json("stopped", name="stopped")
    return {"whole": whole, "resumed": train(folder / "stopped", resume=True)}
