"""How ranks talk: the few collectives hvdtrain needs, over Horovod, through shared memory, or with nobody.

The solo case is not special anywhere else: code above this module always calls a Comm.
Objects travel as JSON, never pickled.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import tensorflow as tf

from hvdtrain.train import compat
from hvdtrain.train.node_mean import NodeMean, leave
from hvdtrain.train.nonfinite import Averaged, is_suspect, look, looked_at

T = TypeVar("T")

PIECE_BYTES = 2**24  # of each rank in one message of gathered arrays


class Comm(Protocol):
    """A world of ranks."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def average(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Return the mean of each tensor over all ranks. Works inside `tf.function`; one collective per dtype."""
        ...

    def average_and_look(self, tensors: Sequence[tf.Tensor], name: str) -> Averaged:
        """Return the same means, and which of them and of this rank's tensors are not finite."""
        ...

    def adasum(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Return each tensor combined over all ranks by Adasum. Works inside `tf.function`."""
        ...

    def average_rows(self, rows: tf.IndexedSlices, name: str) -> tf.IndexedSlices:
        """Return the mean over all ranks of a gradient that names the rows it is for. Works inside `tf.function`."""
        ...

    def sum_arrays(self, arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return the sum of each array over all ranks, added in float64."""
        ...

    def broadcast_arrays(self, arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return rank 0's arrays on every rank. Shapes and dtypes must agree."""
        ...

    def gather_json(self, value: Any, name: str) -> list[Any]:
        """Return every rank's value, in rank order. Also a barrier."""
        ...

    def gather_arrays(self, array: np.ndarray, name: str, *, keep: bool = True) -> list[np.ndarray]:
        """Return every rank's array, in rank order; they differ in the first dimension at most.

        Args:
            array: This rank's.
            name: Of the collective.
            keep: False returns nothing here, and what arrives is not kept.
        """
        ...

    def send_bytes(self, parts: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Send each rank its part, in rank order, and return what each rank sent here; parts are uint8, of any size."""
        ...

    def start_timeline(self, path: Path) -> None:
        """Let Horovod write what it does to this file; called on rank 0 only."""
        ...

    def stop_timeline(self) -> None:
        """End Horovod's timeline."""
        ...

    def shutdown(self) -> None:
        """Leave the world in good order."""
        ...


class SoloComm:
    """One process alone."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def average(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Return the tensors as they are."""
        return list(tensors)

    def average_and_look(self, tensors: Sequence[tf.Tensor], name: str) -> Averaged:
        """Return the tensors as they are, looked at."""
        return looked_at(tensors, tensors)

    def adasum(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Return the tensors as they are."""
        return list(tensors)

    def average_rows(self, rows: tf.IndexedSlices, name: str) -> tf.IndexedSlices:
        """Return the rows, each index once."""
        return add_equal_rows(rows)

    def sum_arrays(self, arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return the arrays in float64."""
        return [np.asarray(array, np.float64) for array in arrays]

    def broadcast_arrays(self, arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return the arrays as they are."""
        return list(arrays)

    def gather_json(self, value: Any, name: str) -> list[Any]:
        """Return the value alone."""
        return [json.loads(json.dumps(value))]

    def gather_arrays(self, array: np.ndarray, name: str, *, keep: bool = True) -> list[np.ndarray]:
        """Return the array alone."""
        return [array] if keep else []

    def send_bytes(self, parts: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return the one part."""
        return list(parts)

    def start_timeline(self, path: Path) -> None:
        """Do nothing."""

    def stop_timeline(self) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Do nothing."""


class HorovodComm:
    """The ranks of a Horovod world; `horovod.tensorflow` must have been initialised.

    Names inside a training step go without TensorFlow's name scope: it holds the names of layers, which have other
    numbers on a rank that has built another model before.
    """

    def __init__(self, hvd: Any) -> None:
        self._hvd = hvd
        self.node_mean: NodeMean | None = None
        self.threads: set[int] = set()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.local_size: int = hvd.local_size()

    def average(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Return the mean of each tensor over all ranks."""
        return self.average_and_look(tensors, name).means

    def average_and_look(self, tensors: Sequence[tf.Tensor], name: str) -> Averaged:
        """Return the mean of each tensor over all ranks: through shared memory if possible, else through Horovod."""
        if self.size == 1 or not tensors:
            return looked_at(tensors, tensors)
        name = compat.name_in_graph(name)
        if len({tensor.dtype for tensor in tensors}) == 1:
            return self._average_group(tensors, name)

        def collective(group: Sequence[tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
            averaged = self._average_group(group, name)
            return list(zip(averaged.means, tf.unstack(averaged.nonfinite, axis=1), strict=True))

        means, marks = zip(*by_dtype(tensors, collective), strict=True)
        return Averaged(list(means), tf.stack(marks, axis=1))

    def _average_group(self, group: Sequence[tf.Tensor], name: str) -> Averaged:
        if self.node_mean and self.node_mean.takes(group, name):
            return self.node_mean.mean(group, name)
        suspicions = []

        def allreduce(flat: tf.Tensor) -> tf.Tensor:
            mean = self.allreduce_mean(flat, name)
            suspicions.append(is_suspect(mean))
            return mean

        means = on_flat_buffer(group, allreduce)
        return Averaged(means, look(group, means, suspicions[0]))

    def allreduce_mean(self, flat: tf.Tensor, name: str) -> tf.Tensor:
        """Return the mean of one tensor through Horovod, whatever else there is."""
        name = f"hvdtrain.{name}.{flat.dtype.name}"
        mean = self._hvd.allreduce(widened(flat), op=self._hvd.Average, name=name, ignore_name_scope=True)
        return tf.cast(mean, flat.dtype)

    def adasum(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Return each tensor combined by Horovod's Adasum, for which the number of ranks is a power of two."""
        if self.size == 1:
            return list(tensors)
        name = compat.name_in_graph(name)
        combine = functools.partial(self._hvd.allreduce, op=self._hvd.Adasum, ignore_name_scope=True)
        return [
            tf.cast(combine(widened(tensor), name=f"hvdtrain.{name}.adasum.{place}"), tensor.dtype)
            for place, tensor in enumerate(tensors)
        ]

    def average_rows(self, rows: tf.IndexedSlices, name: str) -> tf.IndexedSlices:
        """Return the mean over ranks: what each rank has is gathered, and equal rows are added."""
        mine = add_equal_rows(rows)
        if self.size == 1:
            return mine
        name = compat.name_in_graph(name)
        # Horovod gathers along the first dimension, and ranks may have different numbers of rows.
        gather = functools.partial(self._hvd.allgather, ignore_name_scope=True)
        values = gather(widened(mine.values / self.size), name=f"hvdtrain.{name}.values")
        indices = gather(mine.indices, name=f"hvdtrain.{name}.indices")
        return add_equal_rows(tf.IndexedSlices(tf.cast(values, mine.values.dtype), indices, mine.dense_shape))

    def sum_arrays(self, arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return the sum of each array over all ranks."""
        return self._packed(
            [np.asarray(array, np.float64) for array in arrays],
            lambda flat: self._hvd.allreduce(flat, op=self._hvd.Sum, name=f"hvdtrain.{name}"),
        )

    def broadcast_arrays(self, arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return rank 0's arrays, sent as raw bytes in one message."""
        if not arrays:
            return []
        flat = np.frombuffer(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays), np.uint8)
        received = self._hvd.broadcast(tf.constant(flat), root_rank=0, name=f"hvdtrain.{name}").numpy().tobytes()
        return _unpack(received, arrays)

    def gather_json(self, value: Any, name: str) -> list[Any]:
        """Return every rank's value. JSON has no NUL, so one NUL ends each rank's text."""
        text = np.frombuffer(json.dumps(value).encode() + b"\0", np.uint8)
        gathered = self._hvd.allgather(tf.constant(text), name=f"hvdtrain.{name}").numpy().tobytes()
        return [json.loads(part) for part in gathered.split(b"\0")[:-1]]

    def gather_arrays(self, array: np.ndarray, name: str, *, keep: bool = True) -> list[np.ndarray]:
        """Return every rank's array, sent as raw bytes in pieces, since MPI counts them in 32 bits."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        sizes = self.gather_json([len(array), len(data)], name=f"{name}.sizes")
        received: list[list[np.ndarray]] = [[] for _ in range(self.size)]
        for begin in range(0, max(size for _, size in sizes), PIECE_BYTES):
            piece = tf.constant(data[begin : begin + PIECE_BYTES])
            pieces = self._hvd.allgather(piece, name=f"hvdtrain.{name}").numpy()
            ends = np.cumsum([min(max(size - begin, 0), PIECE_BYTES) for _, size in sizes])
            for mine, part in zip(received, np.split(pieces, ends[:-1]), strict=True):
                mine += [part] * keep
        if not keep:
            return []
        return [
            np.concatenate([np.empty(0, np.uint8), *mine]).view(array.dtype).reshape(rows, *array.shape[1:])
            for (rows, _), mine in zip(sizes, received, strict=True)
        ]

    def send_bytes(self, parts: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Send each rank its part; Horovod tells the sizes."""
        splits = tf.constant([len(part) for part in parts], tf.int32)
        flat = tf.constant(np.concatenate(parts))
        received, sizes = self._hvd.alltoall(flat, splits=splits, name=f"hvdtrain.{name}")
        return np.split(received.numpy(), np.cumsum(sizes.numpy())[:-1])

    def start_timeline(self, path: Path) -> None:
        """Let Horovod write what it does to this file; called on rank 0 only."""
        self._hvd.start_timeline(str(path), mark_cycles=False)

    def stop_timeline(self) -> None:
        """End Horovod's timeline."""
        self._hvd.stop_timeline()

    def shutdown(self) -> None:
        """Leave Horovod's world."""
        if self.node_mean:
            leave()
        self._hvd.shutdown()

    @staticmethod
    def _packed(arrays: list[np.ndarray], collective: Any) -> list[np.ndarray]:
        if not arrays:
            return []
        flat = np.concatenate([array.reshape(-1) for array in arrays])
        return _unpack(collective(tf.constant(flat)).numpy().tobytes(), arrays)


_joined: Comm = SoloComm()


def joined() -> Comm:
    """Return the ranks that this process has joined; itself alone before that."""
    return _joined


def join(comm: Comm) -> None:
    """Make these the ranks that layers of this process talk to."""
    global _joined
    _joined = comm


def widened(tensor: tf.Tensor) -> tf.Tensor:
    """Return a tensor as Horovod takes it: of bfloat16 it knows nothing."""
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor


def add_equal_rows(rows: tf.IndexedSlices) -> tf.IndexedSlices:
    """Return the same gradient with each index once, in rising order: its norm is then the gradient's norm."""
    order = tf.argsort(rows.indices, stable=True)
    indices, places = tf.unique(tf.gather(rows.indices, order))
    values = tf.math.unsorted_segment_sum(tf.gather(rows.values, order), places, tf.size(indices))
    return tf.IndexedSlices(values, indices, rows.dense_shape)


def by_dtype(tensors: Sequence[tf.Tensor], collective: Callable[[Sequence[tf.Tensor]], Sequence[T]]) -> list[T]:
    """Apply `collective` to the tensors of each dtype together, in an order that is the same on every rank."""
    results: dict[int, T] = {}
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=lambda dtype: dtype.name):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        results |= zip(places, collective([tensors[i] for i in places]), strict=True)
    return [results[i] for i in range(len(tensors))]


def on_flat_buffer(group: Sequence[tf.Tensor], collective: Callable[[tf.Tensor], tf.Tensor]) -> list[tf.Tensor]:
    """Pack tensors of static shape and one dtype into one flat tensor, apply `collective`, unpack.

    One tensor is one negotiation between ranks, and its order is fixed, so sums are reproducible.
    """
    if len(group) == 1:
        return [collective(group[0])]
    reduced = collective(tf.concat([tf.reshape(tensor, [-1]) for tensor in group], 0))
    parts = tf.split(reduced, [tensor.shape.num_elements() for tensor in group])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, group, strict=True)]


def _unpack(data: bytes, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays, offset = [], 0
    for array in like:
        piece = np.frombuffer(data, array.dtype, count=array.size, offset=offset)
        arrays.append(piece.reshape(array.shape))
        offset += array.nbytes
    return arrays
