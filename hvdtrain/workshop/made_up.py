"""Data sets that are made up: of any size and form, the same on every rank, learnable within minutes, and no more."""

from __future__ import annotations

import numpy as np

from hvdtrain.workshop.stand_in import Examples, Split

NOISE = 2**20  # numbers that all pictures take their noise from: new ones for each would take long
CHUNK = 256


def pictures(num_train: int, num_test: int, shape: tuple[int, int, int], num_classes: int, *, seed: int = 0) -> Split:
    """Return pictures, values 0 to 1: a few blurred spots for each class, at another contrast each time, and noise.

    Every class has as many pictures, to one.
    """
    random = np.random.default_rng(seed)
    patterns = _blurred_spots(random, num_classes, shape)
    windows = np.lib.stride_tricks.sliding_window_view(random.standard_normal(NOISE, np.float32), int(np.prod(shape)))

    def draw(count: int) -> Examples:
        labels = random.permutation(np.arange(count) % num_classes)
        begins = random.integers(len(windows), size=count)
        contrasts = random.uniform(0.1, 0.3, size=(count, 1, 1, 1)).astype(np.float32)
        x = np.empty((count, *shape), np.float32)
        for part in (slice(begin, begin + CHUNK) for begin in range(0, count, CHUNK)):
            drawn = 0.5 + 0.2 * windows[begins[part]].reshape(-1, *shape) + contrasts[part] * patterns[labels[part]]
            np.clip(drawn, 0, 1, out=x[part])
        return x, labels

    return draw(num_train), draw(num_test)


def _blurred_spots(random: np.random.Generator, num_classes: int, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    coarse = random.standard_normal((num_classes, 5, 5, channels)).astype(np.float32)
    rows, columns = _between(height), _between(width)
    return np.einsum("hi,nijc,wj->nhwc", rows, coarse, columns, optimize=True)


def _between(length: int) -> np.ndarray:
    """Return the matrix that draws straight lines between 5 values."""
    places = np.linspace(0, 4, length)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(5))).astype(np.float32)


def houses(num_train: int, num_test: int, num_features: int, *, typical_price: float, seed: int = 0) -> Split:
    """Return features and a price that bends with them, give or take a twentieth."""
    random = np.random.default_rng(seed)
    slopes, bends = random.normal(size=(2, num_features)) / num_features**0.5

    def draw(count: int) -> Examples:
        x = random.normal(size=(count, num_features))
        factor = 1 + 0.2 * x @ slopes + 0.3 * np.tanh(2 * x @ bends) + 0.05 * random.normal(size=count)
        return x, typical_price * np.clip(factor, 0.2, 2.5)

    return draw(num_train), draw(num_test)


def texts(num_train: int, num_test: int, *, num_classes: int, num_words: int, length: int, seed: int = 0) -> Split:
    """Return rows of word numbers: common words more often than rare ones, and each class with words of its own.

    Every class has as many texts, to one. Texts are of a quarter of the length to all of it, filled up in front with 0.
    """
    random = np.random.default_rng(seed)
    own = random.integers(1, num_words, size=(num_classes, 50), dtype=np.int32)

    def draw(count: int) -> Examples:
        labels = random.permutation(np.arange(count) % num_classes)
        x = np.exp(random.uniform(0, np.log(num_words), size=(count, length)).astype(np.float32)).astype(np.int32)
        np.clip(x, 1, num_words - 1, out=x)
        is_own = random.random((count, length), np.float32) < 0.2
        x[is_own] = own[np.broadcast_to(labels[:, None], x.shape)[is_own], random.integers(50, size=is_own.sum())]
        begins = random.integers(0, length - length // 4, size=count)
        x[np.arange(length) < begins[:, None]] = 0
        return x, labels

    return draw(num_train), draw(num_test)
