"""A small model with everything that can go wrong in it, trained again and again from the same state."""

import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.data_options import quiet
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.sync import shared_variables

STEPS = 12
ROWS = 4  # examples per rank and step
# name -> optimizer, steps per execution
KINDS: dict[str, tuple[Callable[[], keras.optimizers.Optimizer], int]] = {
    "adam": (lambda: keras.optimizers.Adam(0.01), 1),
    "momentum": (lambda: keras.optimizers.SGD(0.05, momentum=0.9), 1),
    "adamw by 4": (lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01, use_ema=True), 4),
}


class Trainee:
    """One compiled model; tracing takes longer than a hundred cases.

    Args:
        comm: The ranks.
        kind: A key of `KINDS`.
        prepare: Called with the distributed optimizer before it is compiled in.
    """

    def __init__(self, comm: Comm, kind: str, prepare: Callable[[Any], None] = lambda optimizer: None) -> None:
        keras.utils.set_random_seed(1)
        make, self.steps_per_execution = KINDS[kind]
        self.model = keras.Sequential(
            [
                keras.layers.Input((6,)),
                keras.layers.Dense(8, name="hidden"),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Activation("tanh"),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(3, activation="softmax", name="head"),
            ]
        )
        optimizer = distribute(make(), comm)
        optimizer.build(self.model.trainable_variables)
        prepare(optimizer)
        self.model.compile(
            optimizer,
            loss="sparse_categorical_crossentropy",
            steps_per_execution=self.steps_per_execution,
            jit_compile=False,
        )
        random = np.random.default_rng(100 + comm.rank)
        self.x = random.normal(size=(STEPS * ROWS, 6)).astype("float32")
        self.y = random.integers(3, size=STEPS * ROWS)
        self._variables = [*self.model.variables, *optimizer.variables]
        self._initial = [to_array(variable).copy() for variable in self._variables]

    def fit(self, callbacks: list[keras.callbacks.Callback], x: np.ndarray | None = None) -> None:
        """Train one epoch from the initial state, on other data if they are given."""
        for variable, array in zip(self._variables, self._initial, strict=True):
            variable.assign(array)
        data = tf.data.Dataset.from_tensor_slices((self.x if x is None else x, self.y)).batch(ROWS)
        data = data.with_options(quiet())
        self.model.fit(data, epochs=1, verbose=0, callbacks=callbacks)

    def shared(self) -> dict[str, keras.Variable]:
        """Return what must be equal on all ranks, by name."""
        return dict(shared_variables(self.model))


def differing(trainee: Trainee, comm: Comm) -> list[str]:
    """Return which variables' bytes differ between ranks: the truth, found without the product's own comparison."""
    mine = {
        name: hashlib.sha256(to_array(variable).tobytes()).hexdigest() for name, variable in trainee.shared().items()
    }
    everybody = comm.gather_json(mine, name="truth")
    return [name for name in mine if len({entry[name] for entry in everybody}) > 1]


def set_element(variable: keras.Variable, place: int, change: Callable[[np.ndarray], None]) -> None:
    """Change one element of a variable; `change` gets it as an array of one."""
    array = np.array(to_array(variable))
    change(array.reshape(-1)[place : place + 1])
    variable.assign(array)
