"""The workshop's data sets. Each function returns ((x_train, y_train), (x_test, y_test)) as NumPy arrays."""

from __future__ import annotations

import os

import numpy as np

from hvdtrain.errors import HvdtrainError, UserCodeError
from hvdtrain.fetch import fetch
from hvdtrain.known_data import DIGITS_TEST_EXAMPLES, SYNTHETIC_EXAMPLES

Examples = tuple[np.ndarray, np.ndarray]
Split = tuple[Examples, Examples]


def digits(examples_per_class: int | None = None, subset_seed: int = 0) -> Split:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 x 1, values 0 to 1; no network is needed.

    The split is fixed: 1,437 for training, 360 for testing, drawn once with seed 0.

    Args:
        examples_per_class: How many of each digit to train on; None: all.
        subset_seed: Which ones.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    x = (found.images / 16.0).astype(np.float32)[..., np.newaxis]
    y = found.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = order[:DIGITS_TEST_EXAMPLES], order[DIGITS_TEST_EXAMPLES:]
    return _few((x[train], y[train]), examples_per_class, subset_seed), (x[test], y[test])


def mnist(channels: bool = True, examples_per_class: int | None = None, subset_seed: int = 0) -> Split:
    """Return MNIST, 60,000 and 10,000 images of 28 x 28 x 1, values 0 to 1.

    Found as `mnist.npz` in $HVDTRAIN_DATA or the Keras cache, or downloaded there, once for all ranks.

    Args:
        channels: Whether the images have the last dimension that convolutions want.
        examples_per_class: How many of each digit to train on; None: all.
        subset_seed: Which ones.
    """
    try:
        place = fetch("mnist", os.environ)
    except HvdtrainError as error:
        raise UserCodeError(f"MNIST is not at hand: {error}") from error
    try:
        with np.load(place, allow_pickle=False) as found:
            x_train, y_train, x_test, y_test = (found[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    except Exception as error:
        raise UserCodeError(
            f"{place} is not MNIST in Keras's layout ({str(error).splitlines()[0]}); remove it, then: hvdtrain data "
            "fetch mnist"
        ) from error
    x_train, x_test = (x.astype(np.float32) / 255.0 for x in (x_train, x_test))
    if channels:
        x_train, x_test = x_train[..., np.newaxis], x_test[..., np.newaxis]
    train = _few((x_train, y_train.astype(np.int64)), examples_per_class, subset_seed)
    return train, (x_test, y_test.astype(np.int64))


def _few(data: Examples, examples_per_class: int | None, seed: int) -> Examples:
    """Return so many examples of each class, drawn with a seed.

    Raises:
        UserCodeError: If a class has fewer.
    """
    if examples_per_class is None:
        return data
    x, y = data
    smallest = int(np.bincount(y).min())
    if not 1 <= examples_per_class <= smallest:
        raise UserCodeError(f"examples_per_class must be 1 to {smallest}; got {examples_per_class}")
    order = np.random.default_rng(seed).permutation(len(y))
    chosen = np.concatenate([order[y[order] == label][:examples_per_class] for label in np.unique(y)])
    return x[chosen], y[chosen]


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
