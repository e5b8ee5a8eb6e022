"""Going on in the middle of an epoch: the batches that are done pass by unused, and metric totals go on from theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.train import compat
from hvdtrain.train.callbacks.global_metrics import is_summable
from hvdtrain.train.checkpoint import Checkpoint
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.optimizer import is_distributed

METRICS = "metrics/"


def metric_totals(model: keras.Model, comm: Comm) -> dict[str, np.ndarray]:
    """Return what the metrics of this epoch hold, rank by rank, each of shape (ranks, ...). A collective."""
    variables = [variable for metric in compat.metric_leaves(model) for variable in metric.variables]
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
    metrics = [(metric, variable) for metric in compat.metric_leaves(model) for variable in metric.variables]
    if [array.shape[1:] for array in saved] != [tuple(variable.shape) for _, variable in metrics]:
        raise UserCodeError("the checkpoint was saved within an epoch, with other metrics than the model has now")
    for array, (metric, variable) in zip(saved, metrics, strict=True):
        variable.assign(_totals_of(array, comm, sums=is_summable(metric)).astype(variable.dtype))


def _totals_of(array: np.ndarray, comm: Comm, *, sums: bool) -> np.ndarray:
    """Return one rank's part of what all ranks of an earlier world held."""
    if len(array) == comm.size:
        return np.asarray(array[comm.rank])
    if comm.rank != 0:
        return np.zeros(array.shape[1:])
    return np.asarray(array.sum(axis=0) if sums else array[0])


class Resume(keras.callbacks.Callback):
    """Let the first epoch begin where the checkpoint was written. Place it after `Setup` and what tells the data.

    Keras counts the batches that are passed over, so callbacks see the numbers they would have seen.

    Args:
        comm: The ranks.
        found: The checkpoint the model starts from.
        batches: What decides the batches of an epoch, to compare with what was saved (`Saver`'s state `batches`).
    """

    def __init__(self, comm: Comm, found: Checkpoint, batches: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._comm = comm
        self._found = found
        self._batches = batches or {}
        self._epochs_done, self._steps_done = found.position
        self._is_first_epoch = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Let the train function pass over what is done; a second fit has nothing behind it.

        Raises:
            UserCodeError: If the epoch would go on with other batches than it began with.
        """
        steps_done, self._steps_done = self._steps_done, 0
        self._is_first_epoch = steps_done > 0
        if steps_done:
            self._check_same_batches(steps_done)
            compat.skip_steps(self.model, steps_done, steps_per_epoch=self.params["steps"], then=self._go_on)

    def _check_same_batches(self, steps_done: int) -> None:
        before = {"steps in an epoch": self._found.state.get("steps_per_epoch"), **self._found.state.get("batches", {})}
        now = {"steps in an epoch": self.params["steps"], **self._batches}
        differing = [
            f"{words} {before[words]} -> {value}"
            for words, value in now.items()
            if before.get(words) is not None and value is not None and before[words] != value
        ]
        if differing:
            raise UserCodeError(
                f"the checkpoint is within an epoch, {steps_done} steps into it, and the rest of that epoch would be "
                f"of other batches, so that examples would be repeated or left out: {'; '.join(differing)}. Go on with "
                "those of the first start, or move the checkpoints aside that are newer than the epoch's beginning"
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Refuse another epoch than that of the checkpoint.

        Raises:
            UserCodeError: If fit was not told where to begin.
        """
        if self._is_first_epoch and epoch != self._epochs_done:
            raise UserCodeError(
                f"the checkpoint is within epoch {self._epochs_done}, counted from 0, but fit begins at {epoch}: write "
                "fit(..., initial_epoch=hk.initial_epoch(checkpoint_dir))"
            )
        self._is_first_epoch = False

    def _go_on(self, batch: Any) -> None:
        """Put the totals of the interrupted epoch back; Keras has reset them when the epoch began."""
        compat.build_metrics(self.model, batch)
        put_back_totals(self.model, self._comm, self._found.arrays)
        if is_distributed(self.model.optimizer):
            self.model.optimizer.hvdtrain_reduction.shadows.take()
