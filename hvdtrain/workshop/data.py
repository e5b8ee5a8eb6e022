"""The workshop's data sets. Each function returns ((x_train, y_train), (x_test, y_test)) as NumPy arrays."""

from __future__ import annotations

import os

import keras
import numpy as np

from hvdtrain.errors import HvdtrainError, UserCodeError
from hvdtrain.fetch import fetch
from hvdtrain.known_data import DIGITS_TEST_EXAMPLES, SYNTHETIC_EXAMPLES

Split = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def digits() -> Split:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 x 1, values 0 to 1; no network is needed.

    The split is fixed: 1,437 for training, 360 for testing, drawn once with seed 0.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    x = (found.images / 16.0).astype(np.float32)[..., np.newaxis]
    y = found.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = order[:DIGITS_TEST_EXAMPLES], order[DIGITS_TEST_EXAMPLES:]
    return (x[train], y[train]), (x[test], y[test])


def mnist(channels: bool = True) -> Split:
    """Return MNIST, 60,000 and 10,000 images of 28 x 28 x 1, values 0 to 1.

    Found as `mnist.npz` in $HVDTRAIN_DATA or the Keras cache, or downloaded there, once for all ranks.

    Args:
        channels: Whether the images have the last dimension that convolutions want.
    """
    try:
        place = fetch("mnist", os.environ)
    except HvdtrainError as error:
        raise UserCodeError(f"MNIST is not at hand: {error}") from error
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data(path=str(place.resolve()))
    except Exception as error:
        raise UserCodeError(
            f"{place} is not MNIST in Keras's layout ({str(error).splitlines()[0]}); remove it, then: hvdtrain data "
            "fetch mnist"
        ) from error
    x_train, x_test = (x.astype(np.float32) / 255.0 for x in (x_train, x_test))
    if channels:
        x_train, x_test = x_train[..., np.newaxis], x_test[..., np.newaxis]
    return (x_train, y_train.astype(np.int64)), (x_test, y_test.astype(np.int64))


def synthetic(
    num_examples: int = SYNTHETIC_EXAMPLES,
    shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    num_test: int = 1024,
    seed: int = 0,
) -> Split:
    """Return images made of one random pattern per class plus noise: as large as you like, and learnable.

    Args:
        num_examples: Training examples.
        shape: Shape of one example.
        num_classes: Classes, equally likely.
        num_test: Test examples.
        seed: The same seed gives the same data on every rank.
    """
    random = np.random.default_rng(seed)
    patterns = random.normal(size=(num_classes, *shape)).astype(np.float32)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(num_classes, size=count)
        noise = random.normal(scale=2.0, size=(count, *shape)).astype(np.float32)
        return patterns[labels] + noise, labels.astype(np.int64)

    return draw(num_examples), draw(num_test)
