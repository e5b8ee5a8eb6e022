"""Pictures of training inputs for TensorBoard, as the model sees them: after augmentation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hvdtrain.train import compat
from hvdtrain.train.board import EPOCHS, Board
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.images import are_images, classes_of, table

NUM_EPOCHS = 3  # that are shown: the same slider shows how augmentation differs between them


class Inputs(keras.callbacks.Callback):
    """Show the first images of rank 0's first batch in each of the first epochs. Place it after `TellEpoch`.

    The batch is made once more: the order and the draws of augmentation follow from seed and epoch alone.

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
        if epoch >= NUM_EPOCHS:
            return
        x, y, *_ = next(iter(self._batches.dataset().take(1).as_numpy_iterator()))
        if not are_images(x):
            return
        images, classes = np.array(x[: self._num_images]), classes_of(y)
        words = [f"{name}" for name in classes[: len(images)]] if classes is not None else [""] * len(images)
        title = f"epoch {epoch + 1}, rank 0's first inputs"
        self._board.add(EPOCHS, compat.steps_taken(self.model), lambda: [table("inputs", images, words, title)])
