"""Pictures of training inputs for TensorBoard, as the model sees them: after augmentation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.train import compat
from hvdtrain.train.board import EPOCHS, Board
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.events import Summary
from hvdtrain.train.images import are_images, classes_of, table

NUM_EPOCHS = 3  # that are shown: the same slider shows how augmentation differs between them


class Inputs(keras.callbacks.Callback):
    """Show the first images of rank 0's first batch in each of the first epochs; on rank 0 only.

    A thread makes them once more: the order and the draws of augmentation follow from seed, epoch and example alone.

    Args:
        board: Takes them.
        batches: The training data.
        num_images: At most.
    """

    def __init__(self, board: Board, batches: EpochBatches, num_images: int) -> None:
        super().__init__()
        self._board = board
        self._batches = batches
        self._num_images = num_images

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Show them."""
        if epoch < NUM_EPOCHS:
            self._board.add(EPOCHS, compat.steps_taken(self.model), lambda: self._pictures(epoch))

    def _pictures(self, epoch: int) -> list[Summary.Value]:
        batch = tf.nest.map_structure(np.asarray, self._batches.examples(epoch, self._num_images))
        x, y = batch[0], batch[1] if len(batch) > 1 else None
        if not are_images(x):
            raise UserCodeError("training inputs are shown where x is an array of images")
        classes = classes_of(y)
        words = [""] * len(x) if classes is None else [str(name) for name in classes]
        return [table("inputs", x, words, f"epoch {epoch + 1}: rank 0's first inputs, and their classes")]
