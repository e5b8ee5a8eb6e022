"""Rank 0 saves at the end of epochs; the others wait for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from hvdtrain.train import checkpoint, compat
from hvdtrain.train.comm import Comm
from hvdtrain.train.state import capture


class Saver(keras.callbacks.Callback):
    """Write a checkpoint every N epochs and at the end of training.

    Place it after `SyncProof`, so that only a state proven equal on all ranks is saved.

    Args:
        comm: The ranks; rank 0 alone writes.
        root: The directory of checkpoints.
        every_epochs: Epochs between two; None for the end only.
        keep: How many stay.
        state: What to remember beside the arrays.
        on_saved: Called with the checkpoint's directory.
    """

    def __init__(
        self,
        comm: Comm,
        root: Path,
        *,
        every_epochs: int | None = 1,
        keep: int = 3,
        state: dict[str, Any] | None = None,
        on_saved: Callable[[Path], None] | None = None,
    ) -> None:
        super().__init__()
        self._comm = comm
        self._root = root
        self._every_epochs = every_epochs
        self._keep = keep
        self._state = state or {}
        self._on_saved = on_saved
        self._epochs_done = 0
        self._saved_epochs = -1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save when it is time."""
        self._epochs_done = epoch + 1
        if self._every_epochs and self._epochs_done % self._every_epochs == 0:
            self.save()

    def on_train_end(self, logs: Any = None) -> None:
        """Save the last state if that has not been done; a fit that had no epoch left to do has nothing new."""
        if self._epochs_done and self._saved_epochs != self._epochs_done:
            self.save()

    def save(self) -> None:
        """Write the present state, on rank 0."""
        self._saved_epochs = self._epochs_done
        if self._comm.rank != 0:
            return
        state = {**self._state, "epochs_done": self._epochs_done, "world_size": self._comm.size}
        step = compat.steps_taken(self.model)
        path = checkpoint.save(self._root, capture(self.model, step=step, state=state), keep=self._keep)
        if self._on_saved is not None:
            self._on_saved(path)
