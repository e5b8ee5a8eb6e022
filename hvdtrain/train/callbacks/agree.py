"""One decision for all ranks to stop."""

from __future__ import annotations

from typing import Any

import keras

from hvdtrain.train import compat
from hvdtrain.train.comm import Comm
from hvdtrain.train.optimizer import Reduction, reduction_of


class AgreeStop(keras.callbacks.Callback):
    """Stop all ranks at the same step when one of them decides to stop.

    A rank that left the loop alone would leave the others waiting in the next allreduce. So its decision is taken
    back, and travels with the gradients of the next step: after that execution every rank knows, and all stop there,
    between two updates. What was decided in an epoch's last execution is compared at the epoch's end.

    Place it after the callbacks that may decide, and before those that act on the decision, such as `Saver`.

    Args:
        comm: The ranks.
    """

    def __init__(self, comm: Comm) -> None:
        super().__init__()
        self._comm = comm
        self._is_asked = False

    @property
    def _reduction(self) -> Reduction | None:
        return reduction_of(self.model)

    def ask(self) -> None:
        """Ask all ranks to stop, from any one of them; they do after the next execution."""
        self._is_asked = True
        if self._reduction is not None:
            self._reduction.wishes.ask("stop")

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget an earlier fit."""
        self._is_asked = False
        if self._reduction is not None:
            self._reduction.wishes.forget("stop")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Turn this rank's decision into a wish, and do what all ranks know of."""
        if self._comm.size == 1:
            self.model.stop_training = self.model.stop_training or self._is_asked
            return
        if self.model.stop_training:
            self.model.stop_training = False
            self.ask()
        if self._is_known() and (batch + 1) % compat.steps_per_update(self.model.optimizer) == 0:
            self.model.stop_training = True

    def _is_known(self) -> bool:
        return self._reduction is not None and self._reduction.wishes.is_known("stop")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare the decisions of the epoch's end."""
        mine = self._is_asked or bool(self.model.stop_training)
        if any(self._comm.gather_json(mine, name="stop")):
            self.model.stop_training = True
