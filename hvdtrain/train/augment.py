"""A run's augmentation: `data.augment` as a change of batches, and a preview of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.train.job import Job, load
from hvdtrain.train.order import Order
from hvdtrain.workshop.augmentation import augmented, keys_of

NUM_PREVIEWED = 8
NUM_DRAWS = 5
Change = Callable[[Any, tf.Tensor, tf.Tensor], Any]


def changes(settings: Mapping[str, float] | None, order: Order) -> Change | None:
    """Return what `data.augment` makes of a batch, its example numbers and the epoch; None if it asks for nothing.

    Draws are keyed by seed, epoch and example: the same on any number of ranks. Where every rank sees all data
    (`epoch_splitting: divide`) each has draws of its own.
    """
    if not settings or asks_for_nothing(settings):
        return None
    offset = order.rank * order.end if order.divide else 0

    def change(batch: Any, numbers: tf.Tensor, epoch: tf.Tensor) -> Any:
        images, *others = batch
        return (with_changes(images, keys_of(order.seed, epoch, numbers + offset), settings), *others)

    return change


def asks_for_nothing(settings: Mapping[str, float]) -> bool:
    """Tell whether no image would be changed: there is no strength, whatever the probability."""
    return not any(value for name, value in settings.items() if name != "probability")


def with_changes(images: Any, keys: tf.Tensor, settings: Mapping[str, float]) -> tf.Tensor:
    """Return images after augmentation, in the shape they came in.

    Raises:
        UserCodeError: If they are no images: one array (examples, height, width) or with channels, of floats.
    """
    if not tf.is_tensor(images) or images.shape.rank not in (3, 4) or not images.dtype.is_floating:
        what = f"{images.dtype.name} {tuple(images.shape)}" if tf.is_tensor(images) else type(images).__name__
        raise UserCodeError(
            f"data.augment needs images: floats of shape (examples, height, width) or with channels; x is {what}"
        )
    if images.shape.rank == 3:
        return augmented(images[..., None], keys, **settings)[..., 0]
    return augmented(images, keys, **settings)


def preview(job: Job, output: Path) -> None:
    """Write the first training images, and what some epochs make of them, into an .npz file: `before`, `after`.

    Raises:
        UserCodeError: If the configuration asks for no augmentation, or the data are no arrays of images.
    """
    settings = job.plan.config["data"]["augment"]
    if not settings or asks_for_nothing(settings):
        raise UserCodeError("data.augment asks for nothing; try --set data.augment.rotation=15")
    data = load(job)
    if not data.is_indexable or not isinstance(data.train[0], np.ndarray):
        raise UserCodeError("a preview needs training images that are an array in memory")
    images = tf.constant(data.train[0][:NUM_PREVIEWED])
    numbers, seed = tf.range(len(images), dtype=tf.int64), job.plan.config["training"]["seed"]
    after = [with_changes(images, keys_of(seed, epoch, numbers), settings).numpy() for epoch in range(NUM_DRAWS)]
    temporary = output.with_suffix(".tmp.npz")
    np.savez(temporary, before=images.numpy(), after=np.stack(after))
    temporary.replace(output)
