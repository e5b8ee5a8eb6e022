"""What `EpochBatches` must know of a fit, and the fit of them."""

from __future__ import annotations

from typing import Any

import keras

from hvdtrain.errors import UserCodeError
from hvdtrain.train.comm import Comm
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.optimizer import LossWeight, set_loss_weight
from hvdtrain.train.order import Order


class WeighUneven(keras.callbacks.Callback):
    """Let each example count the same where replicas have unequal numbers of them. Place it after `Setup`.

    Args:
        comm: The ranks.
        order: Of the training data.
        steps_done: Steps of the first epoch that are done.
    """

    def __init__(self, comm: Comm, order: Order, *, steps_done: int = 0) -> None:
        super().__init__()
        self._is_needed = comm.size > 1 and not order.is_even
        self._order = order
        self._steps_done = steps_done

    def set_model(self, model: keras.Model) -> None:
        """Give the optimizer the weights before Keras builds its train function."""
        super().set_model(model)
        steps_done, self._steps_done = self._steps_done, 0  # a second fit begins with an epoch
        if self._is_needed:
            set_loss_weight(model, LossWeight(self._order, steps_done))


class TellEpoch(keras.callbacks.Callback):
    """Tell the data which epoch comes next."""

    def __init__(self, batches: EpochBatches) -> None:
        super().__init__()
        self._batches = batches

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that an epoch of the fit is one of the data.

        Raises:
            UserCodeError: If not: the order of the epochs after it would be another.
        """
        steps, found = self._batches.order.steps_per_epoch, self.params.get("steps")
        if found != steps:
            raise UserCodeError(
                f"an epoch of these data has {steps} steps, but fit was told {found}; leave steps_per_epoch and take() "
                "out, and for fewer steps give shard fewer examples: hk.shard((x[:n], y[:n]), ...)"
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the epoch before Keras asks for an iterator."""
        self._batches.tell(epoch)
