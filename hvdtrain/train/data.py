"""Batches for `model.fit`: arrays in a world-size-independent order, and the user's own tf.data cut into parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from hvdtrain import scaling
from hvdtrain.errors import UserCodeError
from hvdtrain.train.comm import Comm
from hvdtrain.train.order import NO_EXAMPLE, Order

UNSEEDED = (
    "the dataset is shuffled without a seed, so each rank has its own order and the parts would overlap; "
    "write shuffle(n, seed=0) (it still differs from epoch to epoch), or shuffle after shard"
)


class EpochBatches:
    """Batches of in-memory arrays, epoch after epoch; set `epoch` before Keras asks for an iterator.

    Args:
        arrays: (x, y), (x, y, sample weights) or any nest of arrays that share their first dimension.
        order: Which examples at which step.
    """

    def __init__(self, arrays: Any, order: Order) -> None:
        self.order = order
        self.epoch = 0
        self._tensors = tf.nest.map_structure(tf.convert_to_tensor, arrays)

    def dataset(self) -> tf.data.Dataset:
        """Return a dataset that yields one epoch, and the next one each time it is iterated anew."""
        rows = tf.data.Dataset.range(1).map(self._rows).flat_map(tf.data.Dataset.from_tensor_slices)
        batches = rows.map(self._gather if self.order.is_even else self._gather_some).prefetch(2)
        return batches.apply(tf.data.experimental.assert_cardinality(self.order.steps_per_epoch)).with_options(quiet())

    def _rows(self, _: tf.Tensor) -> tf.Tensor:
        rows = tf.numpy_function(lambda: self.order.batches(self.epoch), [], tf.int64)
        return tf.ensure_shape(rows, (self.order.steps_per_epoch, self.order.batch_size))

    def _gather(self, row: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, row), self._tensors)

    def _gather_some(self, row: tf.Tensor) -> Any:
        return self._gather(tf.boolean_mask(row, row != NO_EXAMPLE))


def quiet() -> tf.data.Options:
    """Return options without autotuning, whose thread can delay the end of an epoch by seconds on a small machine."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    options.deterministic = True
    return options


@dataclass(frozen=True)
class EvaluationPart:
    """One rank's part of the test data.

    Args:
        batches: What to evaluate.
        counts: False on a rank that has no example of its own: it evaluates one that is not counted, because Keras
            cannot evaluate nothing.
    """

    batches: tf.data.Dataset
    counts: bool = True


def evaluation_part(data: Any, *, batch_size: int, rank: int, size: int) -> EvaluationPart:
    """Return one rank's part of the test data; the parts are disjoint and cover everything, unequal if need be.

    Args:
        data: A nest of arrays, cut into runs of neighbours, or an unbatched `tf.data.Dataset`, dealt out in turn.
        batch_size: Examples per step.
        rank: This rank.
        size: All ranks.

    Raises:
        UserCodeError: If there is no example at all, or the parts of a shuffled dataset would overlap.
    """
    if not isinstance(data, tf.data.Dataset):
        begin, end = scaling.shard_bounds(count(data), rank=rank, size=size)
        if count(data) == 0:
            raise UserCodeError("the test data hold no example")
        counts = begin < end
        part = tf.nest.map_structure(lambda array: array[begin:end] if counts else array[:1], data)
        return EvaluationPart(tf.data.Dataset.from_tensor_slices(part).batch(batch_size).with_options(quiet()), counts)
    if size > 1 and has_unseeded_shuffle(data):
        raise UserCodeError(UNSEEDED)
    mine = data.shard(size, rank)
    counts = not is_empty(mine)
    if not counts and is_empty(data):
        raise UserCodeError("the test dataset yields no example")
    return EvaluationPart((mine if counts else data.take(1)).batch(batch_size), counts)


def is_empty(dataset: tf.data.Dataset) -> bool:
    """Tell whether a dataset yields nothing; looks at the first element if its length is unknown."""
    cardinality = int(dataset.cardinality())
    return cardinality == 0 if cardinality >= 0 else next(iter(dataset), None) is None


def shard(dataset: Any, *, rank: int, size: int) -> Any:
    """Return this rank's part of a tf.data dataset: disjoint from the others', and as many elements on every rank.

    Each element (one of your batches, if the dataset is batched) goes to one rank in turn; the last elements that
    do not go round are left out, because a rank with one step more would wait forever for the others.

    Args:
        dataset: A `tf.data.Dataset` of known cardinality, the same on every rank.
        rank: This rank.
        size: All ranks.

    Raises:
        UserCodeError: If the cardinality is unknown or infinite, smaller than the number of ranks, or the
            dataset is shuffled without a seed (then the parts of different ranks would overlap).
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise UserCodeError(f"shard needs a tf.data.Dataset; got {type(dataset).__name__}")
    if size == 1:
        return dataset
    cardinality = int(dataset.cardinality())
    if cardinality < 0:
        kind = "infinite" if cardinality == tf.data.INFINITE_CARDINALITY else "unknown"
        raise UserCodeError(
            f"shard needs to know how many elements the dataset has, and its cardinality is {kind}; call shard before "
            "repeat(), or state it: dataset.apply(tf.data.experimental.assert_cardinality(N))"
        )
    if cardinality < size:
        raise UserCodeError(
            f"the dataset has {cardinality} elements for {size} ranks; each rank needs one at least: "
            "use smaller batches, or shard before batch()"
        )
    if has_unseeded_shuffle(dataset):
        raise UserCodeError(UNSEEDED)
    return dataset.take(cardinality - cardinality % size).shard(size, rank)


def has_unseeded_shuffle(dataset: tf.data.Dataset) -> bool:
    """Tell whether a dataset or one that it is made from is shuffled without a seed."""
    return [0, 0] in shuffle_seeds(dataset)


def shuffle_seeds(dataset: tf.data.Dataset) -> list[list[int]]:
    """Return the pair of seeds of every shuffle in a dataset; [0, 0] means another order in every process."""
    own = []
    if "Shuffle" in type(dataset).__name__ and hasattr(dataset, "_seed"):
        own = [[int(tf.get_static_value(seed) or 0) for seed in (dataset._seed, dataset._seed2)]]
    return own + [seeds for inner in dataset._inputs() for seeds in shuffle_seeds(inner)]


def check_same_everywhere(dataset: tf.data.Dataset, comm: Comm) -> None:
    """Compare length and order of a dataset across ranks, before it is cut into parts. A collective.

    Raises:
        UserCodeError: On all ranks alike, if the parts would overlap or differ in length.
    """
    mine = {"cardinality": int(dataset.cardinality()), "shuffle seeds": shuffle_seeds(dataset)}
    gathered = comm.gather_json(mine, name="shard")
    for rank, theirs in enumerate(gathered):
        for key, value in gathered[0].items():
            if theirs[key] != value:
                raise UserCodeError(
                    f"shard needs the same dataset on every rank, but its {key} is {value} on rank 0 and {theirs[key]} "
                    f"on rank {rank}; use the same files, and the same seed in shuffle, on all ranks"
                )


def user_dataset_batches(dataset: tf.data.Dataset, *, batch_size: int, steps: int, rank: int, size: int) -> Any:
    """Return one rank's batches of the user's unbatched dataset, exactly `steps` of them."""
    part = shard(dataset, rank=rank, size=size).batch(batch_size, drop_remainder=True).take(steps)
    return part.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def count(arrays: Any) -> int:
    """Return the examples in a nest of arrays; all must agree.

    Raises:
        UserCodeError: If the first dimensions differ.
    """
    lengths = {len(np.asarray(array)) if not hasattr(array, "shape") else array.shape[0] for array in _leaves(arrays)}
    if len(lengths) != 1:
        raise UserCodeError(f"the arrays of one data set must have as many examples each; got {sorted(lengths)}")
    return int(lengths.pop())


def _leaves(arrays: Any) -> list[Any]:
    return list(tf.nest.flatten(arrays))
