"""Which rank reads what, and who gets it: files laid end to end and cut evenly, the same on every rank. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from hvdtrain.scaling import shard_bounds

PIECE_BYTES = 2**24  # that a rank reads in a round, at most
BUFFER_BYTES = 2**26  # that a rank sends in a round, to all others together
SMALLEST_PIECE_BYTES = 2**16


@dataclass(frozen=True)
class Segment:
    """A run of bytes of one file.

    Args:
        file: Its number.
        begin: First byte.
        length: Bytes.
    """

    file: int
    begin: int
    length: int


@dataclass(frozen=True)
class Stream:
    """Files laid end to end: each rank reads one run of it, a piece in each round, so that large files are shared too.

    Args:
        sizes: Of the files, bytes.
        num_ranks: Ranks that read.
        piece_bytes: What a rank reads in a round, at most.
    """

    sizes: tuple[int, ...]
    num_ranks: int
    piece_bytes: int = PIECE_BYTES

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.asarray(list(accumulate(self.sizes)), np.int64)

    @property
    def num_bytes(self) -> int:
        """All files together."""
        return sum(self.sizes)

    @property
    def num_rounds(self) -> int:
        """Rounds until the rank with most to read has read it."""
        return math.ceil(math.ceil(self.num_bytes / self.num_ranks) / self.piece_bytes)

    def piece(self, rank: int, number: int) -> list[Segment]:
        """Return what a rank reads in one round; nothing once its run has ended.

        >>> Stream((3, 4), num_ranks=2, piece_bytes=10).piece(1, 0)
        [Segment(file=1, begin=1, length=3)]
        """
        begin, end = shard_bounds(self.num_bytes, rank=rank, size=self.num_ranks)
        begin += number * self.piece_bytes
        return self._segments(begin, min(end, begin + self.piece_bytes))

    def _segments(self, begin: int, end: int) -> list[Segment]:
        found = []
        file = int(np.searchsorted(self._ends, begin, side="right"))
        while begin < end:
            start = int(self._ends[file]) - self.sizes[file]
            stop = min(end, int(self._ends[file]))
            if stop > begin:
                found.append(Segment(file, begin - start, stop - begin))
            begin = max(begin, stop)
            file += 1
        return found


def piece_bytes(num_nodes: int) -> int:
    """Return how much a rank reads in a round, so that copies for all other nodes fit into its buffer.

    >>> piece_bytes(1) // 2**20, piece_bytes(9) // 2**20
    (16, 8)
    """
    return max(SMALLEST_PIECE_BYTES, min(PIECE_BYTES, BUFFER_BYTES // max(1, num_nodes - 1)))


def nodes_of(seen: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the ranks of each node, from which ranks' marks each rank sees in the folder it writes to.

    >>> nodes_of([[0, 1], [0, 1], [2]])
    [[0, 1], [2]]
    """
    first = [min(ranks) for ranks in seen]
    return [[rank for rank, leader in enumerate(first) if leader == node] for node in sorted(set(first))]


def receivers(rank: int, nodes: Sequence[Sequence[int]]) -> list[int]:
    """Return who writes what a rank reads, one rank on each node; on its own node that is itself.

    >>> receivers(1, [[0, 1], [2, 3]])
    [1, 3]
    """
    return [rank if rank in node else node[rank % len(node)] for node in nodes]
