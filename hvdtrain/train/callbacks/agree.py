"""The user's own callbacks under several ranks: writers on rank 0 only, and one decision for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from hvdtrain.train.comm import Comm

# These write files; on other ranks they would write the same file again, at the same time.
WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
)


def on_this_rank(callbacks: Sequence[keras.callbacks.Callback], comm: Comm) -> list[keras.callbacks.Callback]:
    """Return the callbacks that run on this rank: all on rank 0, all but the writers elsewhere."""
    return [callback for callback in callbacks if comm.rank == 0 or not isinstance(callback, WRITERS)]


class AgreeStop(keras.callbacks.Callback):
    """Stop all ranks at the end of an epoch in which one of them decided to stop.

    Must be the last callback. A rank that stopped alone would leave the others waiting in the next allreduce.
    """

    def __init__(self, comm: Comm) -> None:
        super().__init__()
        self._comm = comm

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare the decisions."""
        if any(self._comm.gather_json(bool(self.model.stop_training), name="stop")):
            self.model.stop_training = True
