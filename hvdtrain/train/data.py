"""Batches for `model.fit` from arrays, in a world-size-independent order, and one rank's part of test data."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain import scaling
from hvdtrain.errors import UserCodeError
from hvdtrain.train.comm import Comm
from hvdtrain.train.data_options import quiet, untuned
from hvdtrain.train.deal import (
    UNSEEDED,
    DealtBatches,
    batch_digest,
    deal,
    has_unseeded_shuffle,
    neighbours,
    require_equal,
    tuples,
)
from hvdtrain.train.order import NO_EXAMPLE, Order
from hvdtrain.train.own_files import OwnOrder
from hvdtrain.train.stored import OwnFiles, gatherer, is_stored, stored_arrays


class EpochBatches:
    """Batches of in-memory arrays, epoch after epoch; set `epoch` before Keras asks for an iterator.

    Args:
        arrays: (x, y), (x, y, sample weights) or any nest of arrays that share their first dimension, stored or not.
        order: Which examples at which step.
        must_be_told: Whether to refuse to begin before `tell` has said which epoch it is.
        change: Takes a batch, its example numbers and the epoch; returns what is trained on instead.
    """

    def __init__(
        self, arrays: Any, order: Order, *, must_be_told: bool = False, change: Callable[..., Any] | None = None
    ) -> None:
        self.order = order
        self._change = change
        self.epoch = 0
        self._is_untold = must_be_told
        self._gather = gatherer(tuples(arrays))

    def tell(self, epoch: int) -> None:
        """Set the epoch."""
        self.epoch, self._is_untold = epoch, False

    def dataset(self) -> tf.data.Dataset:
        """Return a dataset that yields one epoch, and the next one each time it is iterated anew."""
        epochs = tf.data.Dataset.range(1).map(self._rows)
        rows = epochs.flat_map(lambda *parts: tf.data.Dataset.from_tensor_slices(parts))
        batches = rows.map(self._batch).prefetch(2)
        batches = batches.apply(tf.data.experimental.assert_cardinality(self.order.steps_per_epoch))
        return mark(batches.with_options(quiet()), self)

    def examples(self, epoch: int, number: int) -> Any:
        """Return the first examples of one epoch, at most those of its first step, as they are trained on."""
        return self._batch(tf.constant(self.order.batches(epoch)[0, :number]), tf.constant(epoch, tf.int64))

    def _rows(self, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        steps = self.order.steps_per_epoch
        rows, epoch = tf.numpy_function(self._rows_of_this_epoch, [], (tf.int64, tf.int64))
        return tf.ensure_shape(rows, (steps, self.order.batch_size)), tf.fill([steps], tf.ensure_shape(epoch, ()))

    def _rows_of_this_epoch(self) -> tuple[np.ndarray, np.int64]:
        if self._is_untold:
            raise UserCodeError("which epoch is it? Say whose data they are: callbacks=hk.callbacks([...], data=...)")
        return self.order.batches(self.epoch), np.int64(self.epoch)

    def _batch(self, row: tf.Tensor, epoch: tf.Tensor) -> Any:
        if not self.order.is_even:
            row = tf.boolean_mask(row, row != NO_EXAMPLE)
        batch = self._gather(row)
        return batch if self._change is None else self._change(batch, row, epoch)


def mark(dataset: tf.data.Dataset, origin: Any) -> tf.data.Dataset:
    """Let a dataset, and those made from it, say where they come from."""
    dataset.hvdtrain_origin = origin
    return dataset


def origin(data: Any) -> Any:
    """Return what a dataset, or one that it was made from, was marked with, or None."""
    found = getattr(data, "hvdtrain_origin", None)
    if found is not None or not isinstance(data, tf.data.Dataset):
        return found
    return next((found for inner in data._inputs() if (found := origin(inner)) is not None), None)


def batches_facts(data: Any, comm: Comm) -> dict[str, int]:
    """Return what must stay the same within an epoch, by words for people; arrays are cut alike by all worlds."""
    batches = origin(data)
    return batches.order.facts() if isinstance(batches, EpochBatches) else {"ranks": comm.size}


def training_part(
    data: Any,
    comm: Comm,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    remainder: str = "drop",
    length: int | None = None,
) -> Any:
    """Return what `hk.shard` returns, which says what that is."""
    if callable(data) or isinstance(data, (tf.data.Dataset, keras.utils.PyDataset, types.GeneratorType)):
        if batch_size is not None or remainder != "drop":
            raise UserCodeError("batch_size and remainder are for arrays; a dataset comes with batches of its own")
        return deal(data, comm, length=length)
    if batch_size is None:
        raise UserCodeError("arrays need the examples of one rank in a step: hk.shard((x, y), batch_size=32)")
    return array_batches(data, comm, batch_size=batch_size, seed=seed, remainder=remainder).dataset()


def array_batches(arrays: Any, comm: Comm, *, batch_size: int, seed: int, remainder: str) -> EpochBatches:
    """Return this rank's batches of arrays that are the same on every rank. A collective.

    Args:
        arrays: As for `EpochBatches`.
        comm: The ranks.
        batch_size: Examples of one rank in a step.
        seed: Decides the order.
        remainder: `drop` the last incomplete global batch, or `pad`: use it, each example with its weight.

    Raises:
        UserCodeError: If there are too few examples, or other ones on other ranks.
    """
    if remainder not in ("drop", "pad"):
        raise UserCodeError(f"remainder must be 'drop' or 'pad'; got {remainder!r}")
    num_examples, per_step = count(arrays), batch_size * comm.size
    whole, rest = divmod(num_examples, per_step)
    steps = whole + (remainder == "pad" and rest >= comm.size)
    if steps == 0:
        most = num_examples // comm.size
        advice = f"use batch_size={most} at most" if most else f"use {num_examples} ranks at most"
        raise UserCodeError(
            f"{num_examples} examples cannot fill one global batch of {batch_size} x {comm.size} ranks; {advice}"
        )
    facts: dict[str, Any] = {"number of examples": num_examples, "batch_size": batch_size, "seed": seed}
    facts["remainder"] = remainder
    order = Order(num_examples, per_step, steps, seed, comm.rank, comm.size)
    if isinstance(arrays, OwnFiles):
        order = own_order(order, arrays)
    else:
        ends = tf.nest.map_structure(lambda array: (array[:8], array[-8:]), tuples(stored_arrays(arrays)))
        facts["first and last example"] = batch_digest(ends)
    require_equal(facts, comm, "load and shuffle them alike on all ranks; shard gives each rank its part")
    return EpochBatches(arrays, order, must_be_told=True)


def own_order(order: Order, data: OwnFiles) -> OwnOrder:
    """Return the order of a rank that reads its own files only.

    Raises:
        UserCodeError: If each rank is to see all examples.
    """
    if order.divide:
        raise UserCodeError("own_files: a rank sees its own files only, so data.epoch_splitting must be shard")
    return OwnOrder(**{field.name: getattr(order, field.name) for field in fields(order)}, counts=data.counts)


@dataclass(frozen=True)
class EvaluationPart:
    """One rank's part of the test data.

    Args:
        batches: What to evaluate; marked with this object.
        counts: False on a rank that has no example of its own: it evaluates one that is not counted, because Keras
            cannot evaluate nothing.
    """

    batches: Any
    counts: bool = True

    def __post_init__(self) -> None:
        mark(self.batches, self)


def validation_part(arrays: Any, rows: np.ndarray, *, batch_size: int, rank: int, size: int) -> EvaluationPart:
    """Return one rank's part of examples that were held out of the training data, unequal parts if need be.

    Args:
        arrays: The training data, a nest of arrays, stored or not.
        rows: Numbers of the examples that were held out, at least one.
        batch_size: Examples per step.
        rank: This rank.
        size: All ranks.
    """
    begin, end = scaling.shard_bounds(len(rows), rank=rank, size=size)
    mine = rows[begin:end] if begin < end else rows[:1]
    batches = tf.data.Dataset.from_tensor_slices(mine).batch(batch_size).map(gatherer(tuples(arrays))).prefetch(2)
    return EvaluationPart(batches.with_options(quiet()), begin < end)


def evaluation_part(data: Any, *, batch_size: int | None, rank: int, size: int) -> EvaluationPart:
    """Return one rank's part of the test data; the parts are disjoint and cover everything, unequal if need be.

    Args:
        data: A nest of arrays, cut into runs of neighbours; a `tf.data.Dataset`, whose elements are dealt out in
            turn; or a PyDataset, cut into runs of batches.
        batch_size: Examples per step; None for a dataset that is batched already.
        rank: This rank.
        size: All ranks.

    Raises:
        UserCodeError: If there is no example at all, or the parts of a shuffled dataset would overlap.
    """
    if isinstance(data, tf.data.Dataset):
        if size > 1 and has_unseeded_shuffle(data):
            raise UserCodeError(UNSEEDED)
        mine = data.shard(size, rank)
        counts = not is_empty(mine)
        if not counts and is_empty(data):
            raise UserCodeError("the test dataset yields no example")
        part = mine if counts else data.take(1)
        return EvaluationPart(untuned(part if batch_size is None else part.batch(batch_size)), counts)
    if isinstance(data, keras.utils.PyDataset):
        mine = neighbours(data, rank=rank, size=size)
        return EvaluationPart(mine or DealtBatches(data, range(1)), len(mine) > 0)
    begin, end = scaling.shard_bounds(count(data), rank=rank, size=size)
    if isinstance(data, OwnFiles):
        begin, end = 0, data.counts[rank]
    if count(data) == 0:
        raise UserCodeError("the test data hold no example")
    counts = begin < end
    if is_stored(data):
        rows = tf.data.Dataset.range(*((begin, end) if counts else (0, 1))).batch(batch_size or 32)
        batches = rows.map(gatherer(tuples(data))).prefetch(2)
    else:
        part = tf.nest.map_structure(lambda array: array[begin:end] if counts else array[:1], tuples(data))
        batches = tf.data.Dataset.from_tensor_slices(part).batch(batch_size or 32)
    return EvaluationPart(batches.with_options(quiet()), counts)


def is_empty(dataset: tf.data.Dataset) -> bool:
    """Tell whether a dataset yields nothing; looks at the first element if its length is unknown."""
    cardinality = int(dataset.cardinality())
    return cardinality == 0 if cardinality >= 0 else next(iter(dataset), None) is None


def count(arrays: Any) -> int:
    """Return the examples in a nest of arrays; all must agree.

    Raises:
        UserCodeError: If the first dimensions differ, or something else than an array is among them.
    """
    if isinstance(arrays, OwnFiles):
        return sum(arrays.counts)
    leaves = tf.nest.flatten(tuples(stored_arrays(arrays)))
    strange = [leaf for leaf in leaves if not len(getattr(leaf, "shape", ()))]
    if strange or not leaves:
        found = f"{strange[0]!r}"[:60] if strange else "nothing"
        raise UserCodeError(f"expected arrays with one row per example, or tuples and dicts of such; got {found}")
    lengths = {int(leaf.shape[0]) for leaf in leaves}
    if len(lengths) != 1:
        raise UserCodeError(f"the arrays of one data set must have as many examples each; got {sorted(lengths)}")
    return lengths.pop()
