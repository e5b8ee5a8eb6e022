"""One decision for all ranks to stop."""

from __future__ import annotations

from typing import Any

import keras

from hvdtrain.train.comm import Comm


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
