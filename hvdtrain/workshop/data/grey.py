"""Data sets of images in grey: handwritten digits, clothing, and made-up ones."""

from __future__ import annotations

import gzip
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hvdtrain.errors import HvdtrainError, UserCodeError
from hvdtrain.fetch import fetch
from hvdtrain.known_data import CLOTHES_TEST, CLOTHES_TRAIN, DIGITS_TEST_EXAMPLES, SYNTHETIC_EXAMPLES
from hvdtrain.workshop import made_up
from hvdtrain.workshop.data.few import few, few_of
from hvdtrain.workshop.stand_in import ALLOWED, Examples, Split, read_explained, real_or_stand_in


def digits(examples_per_class: int | None = None, subset_seed: int = 0) -> Split:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 x 1, values 0 to 1; no network is needed.

    The split is fixed: 1,437 for training, 360 for testing, drawn once with seed 0.

    Args:
        examples_per_class: How many of each digit to train on; None: all.
        subset_seed: Which ones.
    """
    x, y = read_digits()
    order = np.random.default_rng(0).permutation(len(x))
    test, train = order[:DIGITS_TEST_EXAMPLES], order[DIGITS_TEST_EXAMPLES:]
    return few((x[train], y[train]), examples_per_class, subset_seed), (x[test], y[test])


def read_digits() -> Examples:
    """Read scikit-learn's file without importing scikit-learn, which takes each rank a second: 64 values, the digit."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserCodeError("the digits are scikit-learn's, and it is not installed: pip install scikit-learn")
    with gzip.open(Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz") as file:
        rows = np.loadtxt(file, dtype=np.uint8, delimiter=",")
    return (rows[:, :-1] / 16.0).astype(np.float32).reshape(-1, 8, 8, 1), rows[:, -1].astype(np.int64)


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
    (x_train, y_train), (x_test, y_test) = read_explained("mnist", place, _read_mnist)
    x_train, x_test = (x.astype(np.float32) / 255.0 for x in (x_train, x_test))
    if channels:
        x_train, x_test = x_train[..., np.newaxis], x_test[..., np.newaxis]
    train = few((x_train, y_train.astype(np.int64)), examples_per_class, subset_seed)
    return train, (x_test, y_test.astype(np.int64))


def _read_mnist(place: Path) -> Split:
    with np.load(place, allow_pickle=False) as arrays:
        return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])


def fashion_mnist(examples_per_class: int | None = None, subset_seed: int = 0, stand_in: str = ALLOWED) -> Split:
    """Return Fashion-MNIST, 60,000 and 10,000 images of 28 x 28 x 1 of ten kinds of clothes, values 0 to 1.

    Args:
        examples_per_class: How many of each kind to train on; None: all 6,000.
        subset_seed: Which ones.
        stand_in: Whether made-up images may take its place: `allowed` where it is not at hand, `never`, `always`.
    """
    train, test = CLOTHES_TRAIN, CLOTHES_TEST
    split = real_or_stand_in(
        "fashion_mnist", _read_clothes, lambda: made_up.pictures(train, test, (28, 28, 1), 10), stand_in
    )
    return few_of(split, examples_per_class, subset_seed)


def _read_clothes(folder: Path) -> Split:
    return (_read_idx(folder, "train"), _read_idx(folder, "t10k"))


def _read_idx(folder: Path, part: str) -> Examples:
    """Return images and labels of MNIST's own format: a header of 16 or 8 bytes, then a byte for each value."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8)
    return x.astype(np.float32) / 255.0, y.astype(np.int64)


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
