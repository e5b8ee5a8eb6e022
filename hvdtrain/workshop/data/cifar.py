"""CIFAR-10 and CIFAR-100: small colour pictures.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.known_data import CIFAR_TEST, CIFAR_TRAIN
from hvdtrain.workshop import made_up
from hvdtrain.workshop.data.few import few_of
from hvdtrain.workshop.data.unpickle import ArraysOnly
from hvdtrain.workshop.stand_in import ALLOWED, Examples, Split, real_or_stand_in

SHAPE = (32, 32, 3)
LABELS = {"fine": 100, "coarse": 20}


def cifar10(examples_per_class: int | None = None, subset_seed: int = 0, stand_in: str = ALLOWED) -> Split:
    """Return CIFAR-10, 50,000 and 10,000 colour pictures of 32 x 32 x 3 of ten kinds of things, values 0 to 1.

    Args:
        examples_per_class: How many of each kind to train on; None: all 5,000.
        subset_seed: Which ones.
        stand_in: Whether made-up pictures may take its place: `allowed` where it is not at hand, `never`, `always`.
    """
    parts = tuple(f"data_batch_{number}" for number in range(1, 6))
    split = real_or_stand_in(
        "cifar10",
        lambda place: _read(place, parts, "test_batch", "labels"),
        lambda: made_up.pictures(CIFAR_TRAIN, CIFAR_TEST, SHAPE, 10),
        stand_in,
    )
    return few_of(split, examples_per_class, subset_seed)


def cifar100(
    labels: str = "fine", examples_per_class: int | None = None, subset_seed: int = 0, stand_in: str = ALLOWED
) -> Split:
    """Return CIFAR-100, 50,000 and 10,000 colour pictures of 32 x 32 x 3, values 0 to 1.

    Args:
        labels: `fine`: 100 kinds of things. `coarse`: the 20 groups they belong to.
        examples_per_class: How many of each to train on; None: all, 500 or 2,500.
        subset_seed: Which ones.
        stand_in: Whether made-up pictures may take its place: `allowed` where it is not at hand, `never`, `always`.

    Raises:
        UserCodeError: If there are no such labels.
    """
    if labels not in LABELS:
        raise UserCodeError(f"labels must be one of {', '.join(LABELS)}; got {labels!r}")
    split = real_or_stand_in(
        "cifar100",
        lambda place: _read(place, ("train",), "test", f"{labels}_labels"),
        lambda: made_up.pictures(CIFAR_TRAIN, CIFAR_TEST, SHAPE, LABELS[labels]),
        stand_in,
    )
    return few_of(split, examples_per_class, subset_seed)


def _read(place: Path, train: tuple[str, ...], test: str, key: str) -> Split:
    """Return the pictures of an archive, or of the folder it unpacks to."""
    if place.is_dir():
        return _read_parts(lambda name: (place / name).read_bytes(), train, test, key)
    with tarfile.open(place) as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        return _read_parts(lambda name: _content(archive, members[name]), train, test, key)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # it is a file, not a folder
    return file.read()


def _read_parts(read: Callable[[str], bytes], train: tuple[str, ...], test: str, key: str) -> Split:
    return (_pictures([_unpickled(read(name)) for name in train], key), _pictures([_unpickled(read(test))], key))


def _unpickled(content: bytes) -> dict[bytes, Any]:
    found: dict[bytes, Any] = ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    return found


def _pictures(parts: list[dict[bytes, Any]], key: str) -> Examples:
    """Return pictures with their colours last, and labels; a part has 32 x 32 reds, then greens, then blues."""
    planes = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
    x = np.empty((len(planes), *SHAPE), np.float32)
    np.divide(planes.transpose(0, 2, 3, 1), 255.0, out=x)
    return x, np.concatenate([part[key.encode()] for part in parts]).astype(np.int64)
