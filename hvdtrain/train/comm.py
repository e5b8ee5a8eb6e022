"""How ranks talk: the few collectives hvdtrain needs, over Horovod or with nobody.

The solo case is not special anywhere else: code above this module always calls a Comm.
Objects travel as JSON, never pickled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf


class Comm(Protocol):
    """A world of ranks."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def average(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Return the mean of each tensor over all ranks. Works inside `tf.function`; one collective per dtype."""
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

    def sum_arrays(self, arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return the arrays in float64."""
        return [np.asarray(array, np.float64) for array in arrays]

    def broadcast_arrays(self, arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
        """Return the arrays as they are."""
        return list(arrays)

    def gather_json(self, value: Any, name: str) -> list[Any]:
        """Return the value alone."""
        return [json.loads(json.dumps(value))]

    def shutdown(self) -> None:
        """Do nothing."""


class HorovodComm:
    """The ranks of a Horovod world; `horovod.tensorflow` must have been initialised."""

    def __init__(self, hvd: Any) -> None:
        self._hvd = hvd
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.local_size: int = hvd.local_size()

    def average(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Return the mean of each tensor over all ranks, packed into one buffer per dtype."""
        return on_flat_buffers(tensors, lambda flat: self._allreduce(flat, name))

    def _allreduce(self, flat: tf.Tensor, name: str) -> tf.Tensor:
        if self.size == 1:
            return flat
        return self._hvd.allreduce(flat, op=self._hvd.Average, name=f"hvdtrain.{name}.{flat.dtype.name}")

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

    def shutdown(self) -> None:
        """Leave Horovod's world."""
        self._hvd.shutdown()

    @staticmethod
    def _packed(arrays: list[np.ndarray], collective: Any) -> list[np.ndarray]:
        if not arrays:
            return []
        flat = np.concatenate([array.reshape(-1) for array in arrays])
        return _unpack(collective(tf.constant(flat)).numpy().tobytes(), arrays)


def on_flat_buffers(tensors: Sequence[tf.Tensor], collective: Any) -> list[tf.Tensor]:
    """Pack tensors of static shape into one flat tensor per dtype, apply `collective` to each, unpack.

    One tensor is one negotiation between ranks, and its order is fixed, so sums are reproducible.
    """
    results: list[tf.Tensor | None] = [None] * len(tensors)
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=lambda dtype: dtype.name):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        group = [tensors[i] for i in places]
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in group], 0) if len(group) > 1 else group[0]
        reduced = collective(flat)
        parts = tf.split(reduced, [tensor.shape.num_elements() for tensor in group]) if len(group) > 1 else [reduced]
        for place, tensor, part in zip(places, group, parts, strict=True):
            results[place] = tf.reshape(part, tensor.shape)
    return [result for result in results if result is not None]


def _unpack(data: bytes, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays, offset = [], 0
    for array in like:
        piece = np.frombuffer(data, array.dtype, count=array.size, offset=offset)
        arrays.append(piece.reshape(array.shape))
        offset += array.nbytes
    return arrays
