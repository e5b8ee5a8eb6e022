"""A small model that draws at random everywhere, and tells which examples each of its training steps really used.

Example number n carries n in its first pixel. `SEEN` takes the numbers in this process; with `WATCH_DIR` set they go
to a file for each attempt and rank too, one line per step: the optimizer's count, then the numbers.
"""

import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

SEEN: list[int] = []
HOOKS: list[keras.callbacks.Callback] = []  # further callbacks for `fit`
SCALE = 1024


def arrays(num_examples: int = 60) -> Any:
    random = np.random.default_rng(5)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = random.integers(4, size=count)
        x = random.normal(size=(count, 8, 8, 1)) + y[:, None, None, None] / 4
        x[:, 0, 0, 0] = np.arange(count) / SCALE
        return x.astype("float32"), y.astype("int64")

    return draw(num_examples), draw(20)


def note(iteration: np.ndarray, marks: np.ndarray) -> None:
    numbers = np.rint(marks * SCALE).astype(int).tolist()
    SEEN.extend(numbers)
    folder = os.environ.get("WATCH_DIR")
    if folder is None:
        return
    rank = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
    attempt = (Path(folder) / "attempt").read_text()
    with open(Path(folder) / f"seen_{attempt}_{rank}.txt", "a", encoding="utf-8") as file:
        file.write(" ".join(map(str, [int(iteration), *numbers])) + "\n")
    time.sleep(float(os.environ.get("WATCH_PAUSE_S", "0")))


class UnseededNoise(layers.Layer):
    """Draws from Keras's general generator, as a layer does that was written without a thought for seeds."""

    def call(self, x, training=False):
        return x + 0.1 * keras.random.normal(tf.shape(x), dtype=x.dtype) if training else x


class Watched(keras.Model):
    """Notes what it is trained on."""

    def train_step(self, data):
        tf.numpy_function(note, [tf.convert_to_tensor(self.optimizer.iterations), data[0][:, 0, 0, 0]], [])
        return super().train_step(data)

    def fit(self, *args, callbacks=(), **options):
        return super().fit(*args, callbacks=[*callbacks, *HOOKS], **options)


def model() -> keras.Model:
    inputs = layers.Input((8, 8, 1))
    x = layers.RandomTranslation(0.1, 0.1)(inputs)
    x = layers.RandomFlip("horizontal")(x)
    x = layers.GaussianNoise(0.1)(x)
    x = layers.Conv2D(4, 3, strides=2)(x)
    x = layers.BatchNormalization()(x)
    x = UnseededNoise()(layers.Activation("relu")(x))
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return Watched(inputs, layers.Dense(4, activation="softmax")(x))
