"""Going on in the middle of an epoch: the batches that are done pass by unused, and metric totals go on from theirs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.train import compat
from hvdtrain.train.checkpoint import Checkpoint
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array

METRICS = "metrics/"


def metric_totals(model: keras.Model, comm: Comm) -> dict[str, np.ndarray]:
    """Return what the metrics of this epoch hold, rank by rank, each of shape (ranks, ...). A collective."""
    variables = compat.metric_variables(model)
    stacks = [np.zeros((comm.size, *variable.shape)) for variable in variables]
    for stack, variable in zip(stacks, variables, strict=True):
        stack[comm.rank] = to_array(variable)
    summed = comm.sum_arrays(stacks, name="metric_totals")  # every entry is one rank's and zeros: nothing is rounded
    return {
        f"{METRICS}{place:05d}/{variable.path}": array
        for place, (variable, array) in enumerate(zip(variables, summed, strict=True))
    }


def put_back_totals(model: keras.Model, comm: Comm, arrays: dict[str, np.ndarray]) -> None:
    """Put each rank's totals back; in a world of another size rank 0 takes the sums, and the others begin at zero.

    Raises:
        UserCodeError: If the model has other metrics than the one that was saved.
    """
    saved = [array for name, array in sorted(arrays.items()) if name.startswith(METRICS)]
    variables = compat.metric_variables(model)
    if [array.shape[1:] for array in saved] != [tuple(variable.shape) for variable in variables]:
        raise UserCodeError("the checkpoint was saved within an epoch, with other metrics than the model has now")
    for array, variable in zip(saved, variables, strict=True):
        if len(array) == comm.size:
            mine = array[comm.rank]
        else:
            mine = array.sum(axis=0) if comm.rank == 0 else np.zeros(array.shape[1:])
        variable.assign(mine.astype(variable.dtype))


class Resume(keras.callbacks.Callback):
    """Let the first epoch begin where the checkpoint was written. Place it before all others but `Setup`.

    Keras counts the batches that are passed over, so callbacks see the numbers they would have seen.

    Args:
        comm: The ranks.
        found: The checkpoint the model starts from.
    """

    def __init__(self, comm: Comm, found: Checkpoint) -> None:
        super().__init__()
        self._comm = comm
        self._found = found
        self._steps_done = found.position[1]
        self._is_first_epoch = True

    def on_train_begin(self, logs: Any = None) -> None:
        """Let the train function pass over what is done."""
        if self._steps_done:
            compat.skip_steps(self.model, self._steps_done, steps_per_epoch=self.params["steps"])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Put the totals of the interrupted epoch back, after Keras has reset them."""
        if self._is_first_epoch and self._steps_done:
            put_back_totals(self.model, self._comm, self._found.arrays)
        self._is_first_epoch = False
