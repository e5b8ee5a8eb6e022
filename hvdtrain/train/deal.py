"""The user's own data dealt out to ranks: tf.data, PyDataset and generator functions, disjoint and in equal steps."""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.scaling import shard_bounds
from hvdtrain.train.comm import Comm
from hvdtrain.train.data_options import untuned
from hvdtrain.train.sync import digest

UNSEEDED = (
    "the dataset is shuffled without a seed, so each rank has its own order and the parts would overlap; "
    "write shuffle(n, seed=0) (it still differs from epoch to epoch), or shuffle after shard"
)


def deal(data: Any, comm: Comm, *, length: int | None = None) -> Any:
    """Return this rank's part of a dataset, a PyDataset or a generator function. A collective.

    Args:
        data: What gives the batches, the same on every rank.
        comm: The ranks.
        length: Batches in an epoch, where the data do not say so themselves.

    Raises:
        UserCodeError: If this cannot be cut into disjoint parts of equal length, or ranks differ.
    """
    if isinstance(data, keras.utils.PyDataset):
        used = _whole_rounds(data.num_batches, comm.size)
        check_same_batches(data, comm)
        return DealtBatches(data, range(comm.rank, used, comm.size))
    if isinstance(data, types.GeneratorType):
        raise UserCodeError(
            "a generator that has been started cannot be started anew for the next epoch, nor on other ranks at the "
            "same place; pass the function that makes it, and say how many batches it yields: shard(batches, length=N)"
        )
    if callable(data):
        data = from_generator(data)
    part = shard(data, rank=comm.rank, size=comm.size, length=length)
    check_same_everywhere(data, comm, length=length)
    return part


def shard(dataset: Any, *, rank: int, size: int, length: int | None = None) -> Any:
    """Return this rank's part of a tf.data dataset: disjoint from the others', and as many elements on every rank.

    Each element (one of your batches, if the dataset is batched) goes to one rank in turn; the last elements that
    do not go round are left out, because a rank with one step more would wait forever for the others.

    Args:
        dataset: A `tf.data.Dataset`, the same on every rank.
        rank: This rank.
        size: All ranks.
        length: Elements in an epoch if the dataset does not know; it must have at least as many, and what comes
            after them is left out.

    Raises:
        UserCodeError: If the length is unknown or infinite, smaller than the number of ranks, not the stated one,
            or the dataset is shuffled without a seed (then the parts of different ranks would overlap). A dataset
            that ends before its stated length raises while training.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise UserCodeError(
            f"shard takes arrays, a tf.data.Dataset, a PyDataset or a function that makes a generator; got {dataset!r}"
        )
    if size == 1 and length is None:
        return untuned(dataset)
    cardinality = int(dataset.cardinality())
    if length is not None and 0 <= cardinality != length:
        raise UserCodeError(f"the dataset has {cardinality} elements, but length={length} was stated; leave it out")
    if cardinality < 0 and length is None:
        kind = "infinite" if cardinality == tf.data.INFINITE_CARDINALITY else "unknown"
        raise UserCodeError(
            f"shard needs to know how many elements the dataset has, and its cardinality is {kind}; call shard before "
            "repeat(), or state it: shard(dataset, length=N)"
        )
    if size > 1 and has_unseeded_shuffle(dataset):
        raise UserCodeError(UNSEEDED)
    used = _whole_rounds(cardinality if length is None else length, size)
    part = untuned(dataset.take(used).shard(size, rank))
    if cardinality >= 0:
        return part
    return exactly(part, used // size, f"rank {rank} needs {used // size} of {used} elements in an epoch")


def _whole_rounds(num_elements: int | None, size: int) -> int:
    if num_elements is None:
        raise UserCodeError("the PyDataset has no end; give it a __len__, the number of its batches in an epoch")
    if num_elements < size:
        raise UserCodeError(
            f"the dataset has {num_elements} elements for {size} ranks; each rank needs one at least: "
            "use smaller batches, or shard before batch()"
        )
    return num_elements - num_elements % size


def exactly(dataset: tf.data.Dataset, num_elements: int, need: str) -> tf.data.Dataset:
    """Return the first elements, or raise where there are fewer, so that this rank ends and the others do not wait."""

    def complain() -> Iterator[Any]:
        raise UserCodeError(f"the data ended before their stated length: {need}; state the right number")
        yield

    ended = tf.data.Dataset.from_generator(complain, output_signature=dataset.element_spec)
    whole = dataset.concatenate(ended).take(num_elements)
    return whole.apply(tf.data.experimental.assert_cardinality(num_elements))


def has_unseeded_shuffle(dataset: tf.data.Dataset) -> bool:
    """Tell whether a dataset or one that it is made from is shuffled without a seed."""
    return [0, 0] in shuffle_seeds(dataset)


def shuffle_seeds(dataset: tf.data.Dataset) -> list[list[int]]:
    """Return the pair of seeds of every shuffle in a dataset; [0, 0] means another order in every process."""
    own = []
    if "Shuffle" in type(dataset).__name__ and hasattr(dataset, "_seed"):
        own = [[int(tf.get_static_value(seed) or 0) for seed in (dataset._seed, dataset._seed2)]]
    return own + [seeds for inner in dataset._inputs() for seeds in shuffle_seeds(inner)]


def check_same_everywhere(dataset: tf.data.Dataset, comm: Comm, *, length: int | None = None) -> None:
    """Compare length and order of a dataset across ranks, before it is cut into parts. A collective.

    Raises:
        UserCodeError: On all ranks alike, if the parts would overlap or differ in length.
    """
    mine = {"cardinality": int(dataset.cardinality()), "shuffle seeds": shuffle_seeds(dataset), "length": length}
    require_equal(mine, comm, "use the same files, and the same seed in shuffle, on all ranks")


def check_same_batches(data: keras.utils.PyDataset, comm: Comm) -> None:
    """Compare length and first batch of a PyDataset across ranks; one that augments at random is not compared.

    Raises:
        UserCodeError: On all ranks alike.
    """
    first, again = batch_digest(data[0]), batch_digest(data[0])
    is_fixed = all(comm.gather_json(first == again, name="shard_fixed"))
    mine = {"length": data.num_batches, "first batch": first if is_fixed else None}
    require_equal(mine, comm, "use the same files, and shuffle with the same seed, on all ranks")


def batch_digest(batch: Any) -> str:
    """Return a short hash of all arrays of a batch."""
    return " ".join(digest(_as_bits(np.asarray(array))) for array in tf.nest.flatten(batch))


def _as_bits(array: np.ndarray) -> np.ndarray:
    """Return an array whose memory is its content: one of strings of bytes holds only where they are."""
    return array if array.dtype != object else np.frombuffer(repr(array.tolist()).encode(), np.uint8)


def require_equal(mine: dict[str, Any], comm: Comm, advice: str) -> None:
    """Raise where ranks were given different data. A collective.

    Raises:
        UserCodeError: On all ranks alike, naming what differs, and a rank where it does.
    """
    gathered = comm.gather_json(mine, name="shard")
    for rank, theirs in enumerate(gathered):
        for key, value in gathered[0].items():
            if theirs[key] != value:
                raise UserCodeError(
                    f"shard needs the same dataset on every rank, but its {key} is {value} on rank 0 and {theirs[key]} "
                    f"on rank {rank}; {advice}"
                )


def user_dataset_batches(
    dataset: tf.data.Dataset, *, global_batch_size: int, steps: int, num_examples: int, rank: int, size: int
) -> tf.data.Dataset:
    """Return one rank's batches of the user's unbatched dataset, exactly `steps` of them.

    Each step takes the next `global_batch_size` examples, the last one what is left, and each rank its share.

    Raises:
        UserCodeError: As `shard` does.
    """
    if global_batch_size % size == 0 and steps * global_batch_size <= num_examples:
        length = num_examples if int(dataset.cardinality()) < 0 else None
        part = shard(dataset, rank=rank, size=size, length=length)
        batches = part.batch(global_batch_size // size, drop_remainder=True).take(steps)
    else:
        if size > 1 and has_unseeded_shuffle(dataset):
            raise UserCodeError(UNSEEDED)
        if int(dataset.cardinality()) < 0:
            dataset = exactly(dataset, num_examples, f"data.num_examples is {num_examples}")
        batches = dataset.batch(global_batch_size).take(steps).map(lambda *batch: share_of(batch, rank, size))
    return untuned(batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2))


def share_of(batch: tuple[Any, ...], rank: int, size: int) -> Any:
    """Return one rank's share of a global batch, as `scaling.shard_bounds` cuts it."""
    num_examples = tf.shape(tf.nest.flatten(batch)[0])[0]
    share, extra = num_examples // size, num_examples % size
    begin = rank * share + tf.minimum(rank, extra)
    end = begin + share + tf.cast(rank < extra, tf.int32)
    mine = tf.nest.map_structure(lambda array: array[begin:end], batch)
    return mine if len(mine) > 1 else mine[0]


def from_generator(make: Callable[[], Iterator[Any]]) -> tf.data.Dataset:
    """Return a dataset over what a generator function yields; its first batch says what all of them look like.

    Raises:
        UserCodeError: If it yields nothing, or is no such function.
    """
    first = next(iter(make()), None)
    if first is None:
        raise UserCodeError("the generator function yields nothing")

    def spec(array: Any) -> tf.TensorSpec:
        array = np.asarray(array)
        return tf.TensorSpec((None, *array.shape[1:]), array.dtype)

    def batches() -> Iterator[Any]:
        for batch in make():
            yield tuples(batch)

    return tf.data.Dataset.from_generator(batches, output_signature=tf.nest.map_structure(spec, tuples(first)))


def tuples(nest: Any) -> Any:
    """Return a nest of arrays with its lists made tuples, since tf.data takes a list for one array.

    >>> tuples([{"a": [np.zeros(2), np.zeros(2)]}, [1, 2]])
    ({'a': (array([0., 0.]), array([0., 0.]))}, array([1, 2]))
    """
    if isinstance(nest, dict):
        return {key: tuples(value) for key, value in nest.items()}
    if isinstance(nest, (list, tuple)):
        if isinstance(nest, list) and all(np.ndim(leaf) == 0 for leaf in tf.nest.flatten(nest)):
            return np.asarray(nest)
        return tuple(tuples(value) for value in nest)
    return nest


class DealtBatches(keras.utils.PyDataset):
    """Some batches of a PyDataset, by number.

    What it does at an epoch's end, it does with Python's and NumPy's global generators in the same state on every
    rank, so that ranks that shuffle there keep disjoint parts.

    Args:
        data: All batches.
        numbers: Those wanted.
    """

    def __init__(self, data: keras.utils.PyDataset, numbers: Sequence[int]) -> None:
        workers = {name: getattr(data, name) for name in ("workers", "use_multiprocessing", "max_queue_size")}
        super().__init__(**workers)
        self._data = data
        self._numbers = numbers
        self._epochs = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Any:
        return self._data[self._numbers[index]]

    def on_epoch_begin(self) -> None:
        """Pass it on."""
        self._data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Pass it on, with random numbers that are the same on all ranks."""
        before = random.getstate(), np.random.get_state()
        self._epochs += 1
        random.seed(self._epochs)
        np.random.seed(self._epochs)
        self._data.on_epoch_end()
        random.setstate(before[0])
        np.random.set_state(before[1])


def neighbours(data: keras.utils.PyDataset, *, rank: int, size: int) -> DealtBatches:
    """Return one rank's run of neighbouring batches, unequal if need be; empty if there are fewer batches than ranks.

    Raises:
        UserCodeError: If the PyDataset has no end.
    """
    if not data.num_batches:
        raise UserCodeError(f"the PyDataset has {data.num_batches} batches; give it a __len__ of 1 at least")
    return DealtBatches(data, range(*shard_bounds(data.num_batches, rank=rank, size=size)))
