"""Metrics over all ranks' data: totals and counts are summed, never means of means.

`fit` computes an epoch's logs before validation, and `evaluate` resets the same variables, so training totals are
taken when validation begins, or at the epoch's end without one. The sums go into the metrics only for the
moment of reading: what ranks hold stays local.
"""

from __future__ import annotations

from typing import Any, Protocol

import keras
import numpy as np

from hvdtrain.train import compat
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.data import EvaluationPart, origin


class Passenger(Protocol):
    """Something whose numbers are added up over ranks on the way, without a message of their own."""

    def mine(self) -> np.ndarray:
        """Return this rank's numbers."""
        ...

    def hear(self, summed: np.ndarray) -> None:
        """Take their sum over ranks."""
        ...


def global_results(
    model: keras.Model, comm: Comm, *, counts: bool = True, passenger: Passenger | None = None
) -> dict[str, float]:
    """Return all metric values over the union of the ranks' data. A collective: call it on every rank.

    The values are the same on all ranks; those of metrics that cannot be added are rank 0's.

    Args:
        model: Its metrics hold what this rank has seen.
        comm: The ranks.
        counts: False where this rank had no data of its own.
        passenger: Whose numbers travel with them.
    """
    if comm.size == 1:
        if passenger is not None:
            passenger.hear(passenger.mine())
        return _scalars(model)
    variables = [v for metric in compat.metric_leaves(model) if is_summable(metric) for v in metric.variables]
    local = [to_array(variable).copy() for variable in variables]
    counted = local if counts else [np.zeros_like(array) for array in local]
    if passenger is None:
        summed = comm.sum_arrays(counted, name="metrics")
    else:
        *summed, theirs = comm.sum_arrays([*counted, passenger.mine()], name="metrics")
        passenger.hear(theirs)
    _assign(variables, summed)
    results = _scalars(model)
    _assign(variables, local)
    return comm.gather_json(results, name="rank0_metrics")[0] if local_only(model) else results


def _scalars(model: keras.Model) -> dict[str, float]:
    values = model.get_metrics_result().items()
    return {name: float(np.asarray(value)) for name, value in values if np.ndim(value) == 0}


def is_summable(metric: keras.metrics.Metric) -> bool:
    """Tell whether a metric's state may be added over ranks: true of Keras's own, unknown for a user's."""
    owner = next(cls for cls in type(metric).__mro__ if "result" in vars(cls))
    return owner.__module__.partition(".")[0] == "keras" and owner is not keras.metrics.Metric


def local_only(model: keras.Model) -> list[str]:
    """Return the names of metrics that speak of rank 0's data alone."""
    return [metric.name for metric in compat.metric_leaves(model) if not is_summable(metric)]


def _assign(variables: list[keras.Variable], arrays: list[np.ndarray]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array.astype(variable.dtype))


class GlobalMetrics(keras.callbacks.Callback):
    """Put global values into the logs before any other callback sees them.

    What a rank without an example of its own evaluates is not counted (`data.EvaluationPart`).

    Args:
        comm: The ranks.
        passenger: Whose numbers travel with those of each epoch's training, on all ranks alike.
    """

    def __init__(self, comm: Comm, passenger: Passenger | None = None) -> None:
        super().__init__()
        self._comm = comm
        self._passenger = passenger
        self._in_epoch = False
        self._train: dict[str, float] = {}
        self._validation: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the last epoch."""
        self._in_epoch, self._train, self._validation = True, {}, {}

    def on_test_begin(self, logs: Any = None) -> None:
        """Take the training totals before validation resets them."""
        if self._in_epoch:
            self._train = self._of_training()

    def on_test_end(self, logs: Any = None) -> None:
        """Take the evaluation's totals."""
        part = origin(compat.validation_data(self.model))
        counts = part.counts if isinstance(part, EvaluationPart) else True
        self._validation = global_results(self.model, self._comm, counts=counts)
        if logs is not None:
            logs.update(self._validation)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Replace this rank's values in the logs by the global ones."""
        self._in_epoch = False
        values = self._train or self._of_training()
        if logs is not None:
            logs.update(values)
            logs.update({f"val_{name}": value for name, value in self._validation.items()})

    def _of_training(self) -> dict[str, float]:
        return global_results(self.model, self._comm, passenger=self._passenger)
