"""Histograms of a model's weights for TensorBoard, which shows them over time, and as distributions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from hvdtrain.train import compat
from hvdtrain.train.board import EPOCHS, Board
from hvdtrain.train.events import Summary, histogram


class Histograms(keras.callbacks.Callback):
    """Write them after epochs, on rank 0 only. A copy of the weights is taken; a thread counts.

    Args:
        board: Takes them.
        every_epochs: Epochs between two of them; the first epoch and the last are always there.
    """

    def __init__(self, board: Board, every_epochs: int) -> None:
        super().__init__()
        self._board = board
        self._every_epochs = every_epochs

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write them if it is time."""
        if epoch % self._every_epochs and epoch + 1 < self.params["epochs"]:
            return
        seeds = {id(state) for state in compat.seed_states(self.model)}
        arrays: dict[str, np.ndarray] = {}
        for variable in compat.unique(self.model.weights):
            if id(variable) not in seeds:
                name = variable.path if variable.path not in arrays else f"{variable.path} {len(arrays)}"
                arrays[name] = compat.to_array(variable).copy()
        self._board.add(EPOCHS, compat.steps_taken(self.model), lambda: histograms(arrays))


def histograms(arrays: dict[str, np.ndarray]) -> Iterator[Summary.Value]:
    """Yield a histogram of each array."""
    for path, array in arrays.items():
        yield histogram(f"weights/{path}", array)
