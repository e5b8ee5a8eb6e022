"""Proving, while training, that all ranks hold the same bits."""

from __future__ import annotations

from typing import Any

import keras

from hvdtrain.train import compat
from hvdtrain.train.comm import Comm
from hvdtrain.train.sync import prove_in_sync


class SyncProof(keras.callbacks.Callback):
    """Compare all weights, statistics and slots after the first execution, every N steps, and when training ends.

    `Saver` asks for a check before each save besides.

    Args:
        comm: The ranks.
        every_steps: Steps between two checks; None for the first and the last only.
    """

    def __init__(self, comm: Comm, every_steps: int | None) -> None:
        super().__init__()
        self._comm = comm
        self._every_steps = every_steps
        self._next = 1
        self._steps = 0
        self._before_epoch = 0
        self.num_checks = 0
        self.digest = ""

    def on_train_begin(self, logs: Any = None) -> None:
        """Start counting."""
        self._next, self._steps, self._before_epoch = 1, 0, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember where the epoch begins; Keras counts its batches from 0."""
        self._before_epoch = self._steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Check when it is time. All ranks count alike."""
        self._steps = self._before_epoch + batch + 1
        if self._steps >= self._next:
            self.check()
            self._next = self._steps + self._every_steps if self._every_steps else 2**62

    def on_train_end(self, logs: Any = None) -> None:
        """Check what training leaves behind."""
        self.check()

    def check(self) -> None:
        """Compare now.

        Raises:
            OutOfSyncError: On all ranks alike.
        """
        self.digest = prove_in_sync(self.model, self._comm, step=compat.steps_taken(self.model))
        self.num_checks += 1
