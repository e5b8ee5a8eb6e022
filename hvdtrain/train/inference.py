"""Evaluation and prediction by all ranks together: exact metrics, and predictions in the data's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import OutOfSyncError, UserCodeError
from hvdtrain.train import compat
from hvdtrain.train.callbacks.global_metrics import global_results
from hvdtrain.train.comm import Comm
from hvdtrain.train.data import EvaluationPart, evaluation_part
from hvdtrain.train.deal import tuples
from hvdtrain.train.sync import digest


def evaluate(model: keras.Model, data: Any, comm: Comm, *, batch_size: int | None) -> dict[str, float]:
    """Return the compiled metrics over all of the data, the same on every rank. A collective.

    Args:
        model: The same on every rank.
        data: As `data.evaluation_part` takes them.
        comm: The ranks.
        batch_size: Examples of a rank in a step; None for a dataset that is batched already.

    Raises:
        UserCodeError: If there is no example.
        OutOfSyncError: If ranks hold different weights.
    """
    require_same_weights(model, comm)
    part = evaluation_part(data, batch_size=batch_size, rank=comm.rank, size=comm.size)
    model.evaluate(part.batches, verbose=0)
    return global_results(model, comm, counts=part.counts)


def predict(model: keras.Model, data: Any, comm: Comm, *, batch_size: int | None, on_all_ranks: bool = True) -> Any:
    """Return the model's outputs for all of the data, in their order, as NumPy arrays. A collective.

    Args:
        model: The same on every rank.
        data: Inputs as a nest of arrays, a `tf.data.Dataset` or a PyDataset.
        comm: The ranks.
        batch_size: Examples of a rank in a step; None for a dataset that is batched already.
        on_all_ranks: Whether every rank gets them; if not, the others than rank 0 get None.

    Raises:
        UserCodeError: If there is no example, or an output is no array of numbers.
        OutOfSyncError: If ranks hold different weights.
    """
    require_same_weights(model, comm)
    part, is_dealt = prediction_part(data, batch_size=batch_size, comm=comm)
    outputs = model.predict(part.batches, verbose=0)
    keep = on_all_ranks or comm.rank == 0
    whole = []
    for place, leaf in enumerate(keras.tree.flatten(outputs)):
        mine = require_array(leaf)[: None if part.counts else 0]
        gathered = comm.gather_arrays(mine, name=f"predict.{place}", keep=keep)
        whole.append(None if not keep else put_in_turn(gathered) if is_dealt else np.concatenate(gathered))
    return keras.tree.pack_sequence_as(outputs, whole) if keep else None


def prediction_part(data: Any, *, batch_size: int | None, comm: Comm) -> tuple[EvaluationPart, bool]:
    """Return this rank's part of the inputs, and whether examples were dealt out one by one, in turn."""
    is_dataset = isinstance(data, tf.data.Dataset)
    if is_dataset:
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise UserCodeError("the dataset has no end, so neither would the predictions; use take(n)")
        if batch_size is None:  # in turn by examples, not by batches: only so their order follows from their numbers
            batch_size = tf.nest.flatten(data.element_spec)[0].shape[0] or 32
            data = data.unbatch()
    elif not isinstance(data, keras.utils.PyDataset):
        data = (tuples(data),)  # a tuple of inputs is one input to Keras, not inputs and targets
    return evaluation_part(data, batch_size=batch_size, rank=comm.rank, size=comm.size), is_dataset


def put_in_turn(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return rows that were dealt out in turn in their first order.

    >>> put_in_turn([np.array([0, 2]), np.array([1])])
    array([0, 1, 2])
    """
    whole = np.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def require_array(output: Any) -> np.ndarray:
    """Return a model's output, or raise if it cannot be sent.

    Raises:
        UserCodeError: For ragged outputs and strings.
    """
    if not isinstance(output, np.ndarray) or output.dtype.kind in "OSU":
        raise UserCodeError(f"predictions must be arrays of numbers to be gathered; got {type(output).__name__}")
    return output


def require_same_weights(model: keras.Model, comm: Comm) -> None:
    """Raise if ranks hold different weights, whose results together would belong to no model. A collective.

    Raises:
        OutOfSyncError: On all ranks alike.
    """
    seeds = {id(state) for state in compat.seed_states(model)}
    digests = [digest(compat.to_array(variable)) for variable in model.weights if id(variable) not in seeds]
    gathered = comm.gather_json("".join(digests), name="weights")
    odd = [rank for rank, theirs in enumerate(gathered) if theirs != gathered[0]]
    if odd:
        raise OutOfSyncError(
            f"ranks 0 and {odd[0]} hold different weights, so this would be the result of no model; load the same file "
            "on every rank, or train with hk.callbacks, which keeps ranks equal"
        )
