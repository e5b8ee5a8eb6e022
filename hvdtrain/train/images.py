"""Images and their classes among a run's data, and tables of them as pictures for TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from hvdtrain.study.pictures import table_plot
from hvdtrain.train.events import Summary, picture

COLUMNS = 8
DPI = 80


def are_images(x: Any) -> bool:
    """Tell whether an array holds images: (examples, height, width), or with 1, 3 or 4 channels.

    >>> are_images(np.zeros((2, 28, 28, 1))), are_images(np.zeros((2, 28))), are_images({"a": 1})
    (True, False, False)
    """
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiu":
        return False
    return x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3, 4))


def classes_of(y: Any) -> np.ndarray | None:
    """Return the class of each example, from numbers or from rows with a 1 in them; None if there are no classes.

    >>> classes_of(np.array([3, 1])), classes_of(np.array([[0.0, 1.0]])), classes_of(np.array([0.5]))
    (array([3, 1]), array([1]), None)
    """
    if not isinstance(y, np.ndarray):
        return None
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 1 and y.dtype.kind in "iu":
        return y
    if y.ndim == 1:
        return y.astype(int) if bool(np.all(y == y.astype(int))) else None
    has_one = y.ndim == 2 and bool(np.all(y.max(1) == 1) and np.all(y.sum(1) == 1))
    return y.argmax(1) if has_one else None


def table(tag: str, images: np.ndarray, words: Sequence[str], title: str) -> Summary.Value:
    """Return a table of images with a word above each, as one picture."""
    figure = table_plot(title, shown(images), words, columns=COLUMNS)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    width, height = (round(side * DPI) for side in figure.get_size_inches())
    return picture(tag, file.getvalue(), width=width, height=height)


def shown(images: np.ndarray) -> np.ndarray:
    """Return images with values from 0 to 1: colours that are not so are stretched, all alike."""
    images = images.astype(np.float32)
    low, high = float(images.min()), float(images.max())
    return images if low >= 0 and high <= 1 else (images - low) / max(high - low, 1e-9)
