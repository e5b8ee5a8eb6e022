"""How dense gradients travel between ranks: averaged or by Adasum, in half precision or not, in how many groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.train.comm import Comm
from hvdtrain.train.nonfinite import Averaged, joined, looked_at

COMPRESSIONS = ("none", "fp16")
OPS = ("average", "adasum")
WIDE = (tf.float32, tf.float64)


@dataclass(frozen=True)
class Exchange:
    """What happens to dense gradients between the ranks. Rows of embeddings are always averaged as they are.

    Args:
        compression: `fp16` sends float32 and float64 gradients as float16. One that does not fit becomes infinite on
            all ranks alike.
        op: `average`, or `adasum`: each gradient by itself, by Horovod; rows of embeddings become dense.
        num_groups: Cut the gradients into this many collectives, the last variables' first, so that they leave while
            the first ones are still computed. None: one for all. The results are the same bits in shared memory.

    Raises:
        UserCodeError: If a value is not one of these.
    """

    compression: str = "none"
    op: str = "average"
    num_groups: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("compression", COMPRESSIONS), ("op", OPS)):
            if getattr(self, name) not in allowed:
                choices = " or ".join(map(repr, allowed))
                raise UserCodeError(f"{name} must be {choices}; got {getattr(self, name)!r}")
        if self.num_groups is not None and self.num_groups < 1:
            raise UserCodeError(f"num_groups must be at least 1, or None; got {self.num_groups}")
        if self.is_adasum and self.num_groups is not None:
            raise UserCodeError("op='adasum' sends each gradient by itself, so num_groups must be None")

    @property
    def is_adasum(self) -> bool:
        """Whether gradients are combined by Adasum."""
        return self.op == "adasum"

    def check(self, size: int, *, scales_loss: bool) -> None:
        """Refuse what Adasum cannot do.

        Raises:
            UserCodeError: If the number of ranks is no power of two, or losses are scaled.
        """
        if self.is_adasum and size & (size - 1):
            raise UserCodeError(
                f"op='adasum' combines ranks in pairs, pairs of pairs and so on, so their number must be a power of "
                f"two; there are {size}. Use {2 ** (size.bit_length() - 1)} ranks, or op='average'"
            )
        if self.is_adasum and scales_loss:
            raise UserCodeError(
                "op='adasum' does not go with loss scaling (mixed_float16): it multiplies gradients with each other, "
                "and scaled ones overflow. Use mixed_bfloat16 or float32, or op='average'"
            )

    def __call__(self, comm: Comm, gradients: Sequence[tf.Tensor], statistics: Sequence[tf.Tensor]) -> Averaged:
        """Return the combined gradients, and after them the means of the statistics, which are never compressed."""
        packed = [self._compress(gradient) for gradient in gradients] if comm.size > 1 else list(gradients)
        combine = self._adasum if self.is_adasum else self._in_groups
        averaged = combine(comm, packed, statistics)
        means = list(averaged.means)
        for place, gradient in enumerate(gradients):
            means[place] = tf.cast(means[place], gradient.dtype)
        return Averaged(means, averaged.nonfinite)

    def _compress(self, gradient: tf.Tensor) -> tf.Tensor:
        return tf.cast(gradient, tf.float16) if self.compression == "fp16" and gradient.dtype in WIDE else gradient

    def _adasum(self, comm: Comm, gradients: Sequence[tf.Tensor], statistics: Sequence[tf.Tensor]) -> Averaged:
        combined = looked_at(gradients, comm.adasum(gradients, name="gradients"))
        return joined([combined, comm.average_and_look(statistics, name="statistics")])

    def _in_groups(self, comm: Comm, gradients: Sequence[tf.Tensor], statistics: Sequence[tf.Tensor]) -> Averaged:
        *later, first = groups([_num_bytes(gradient) for gradient in gradients], self.num_groups or 1)
        parts = [comm.average_and_look(gradients[group], name="gradients") for group in later]
        # The first variables' gradients come last: the forward pass is long over, so statistics are ready.
        averaged = comm.average_and_look([*gradients[first], *statistics], name="gradients")
        cut = first.stop
        begin = Averaged(averaged.means[:cut], averaged.nonfinite[:, :cut])
        end = Averaged(averaged.means[cut:], averaged.nonfinite[:, cut:])
        return joined([begin, *reversed(parts), end]) if parts else averaged


def groups(num_bytes: Sequence[int], num_groups: int) -> Iterator[slice]:
    """Yield slices of about equal bytes, the last one first; together they hold everything once.

    >>> list(groups([4, 4, 4, 12], 2))
    [slice(3, 4, None), slice(0, 3, None)]
    """
    stop, left = len(num_bytes), sum(num_bytes)
    for remaining in range(num_groups, 1, -1):
        start, size = stop, 0
        while start > remaining - 1 and (start == stop or size + num_bytes[start - 1] <= left / remaining):
            start -= 1
            size += num_bytes[start]
        if start < stop:
            yield slice(start, stop)
        stop, left = start, left - size
    yield slice(0, stop)


def _num_bytes(tensor: tf.Tensor) -> int:
    return int(tensor.dtype.size * (tensor.shape.num_elements() or 0))
